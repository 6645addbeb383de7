"""Small seeds, each named after the one feature it shows."""

from toys import branches, forwards, layers, networks, norms, products, temporal, units  # noqa: F401  (fill the table)
from toys.table import TOYS, Toy, randomise

__all__ = ["TOYS", "Toy", "randomise"]
