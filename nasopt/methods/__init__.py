"""Search methods: each wraps a seed and exports the network that it found."""

from nasopt.methods.budget import Budget
from nasopt.methods.nasb import NASB
from nasopt.methods.phases import PhaseSchedule
from nasopt.methods.pit import PIT
from nasopt.methods.pit_supernet import PITSuperNet
from nasopt.methods.structure import restore
from nasopt.methods.supernet import SuperNet, SuperNetModule, supernet_candidates, with_candidates

__all__ = [
    "NASB",
    "PIT",
    "Budget",
    "PITSuperNet",
    "PhaseSchedule",
    "SuperNet",
    "SuperNetModule",
    "restore",
    "supernet_candidates",
    "with_candidates",
]
