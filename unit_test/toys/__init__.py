"""Small seeds, each named after the one feature it shows."""

from toys import branches, candidate_layers, forwards, layers, networks, temporal, units  # noqa: F401  (fill the table)
from toys.table import TOYS, Toy, randomise

__all__ = ["TOYS", "Toy", "randomise"]
