"""Search methods: each wraps a seed and exports the network that it found."""

from nasopt.methods.budget import Budget
from nasopt.methods.nasb import NASB
from nasopt.methods.pit import PIT
from nasopt.methods.structure import restore

__all__ = ["NASB", "PIT", "Budget", "restore"]
