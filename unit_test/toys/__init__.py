"""Small seeds, each named after the one feature it shows."""

from toys import (  # noqa: F401  (fill the table)
    branches,
    candidate_layers,
    forwards,
    layers,
    networks,
    norms,
    products,
    temporal,
    units,
)
from toys.table import TOYS, Toy, randomise

__all__ = ["TOYS", "Toy", "randomise"]
