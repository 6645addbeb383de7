"""Search methods: each wraps a seed and exports the network that it found."""

from nasopt.methods.budget import Budget
from nasopt.methods.pit import PIT
from nasopt.methods.structure import restore

__all__ = ["PIT", "Budget", "restore"]
