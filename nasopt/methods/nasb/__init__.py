"""NASB: architecture search for binary networks."""

from nasopt.methods.nasb.candidates import CANDIDATES
from nasopt.methods.nasb.cell import NASBCell
from nasopt.methods.nasb.nasb import NASB
from nasopt.methods.nasb.pack import pack
from nasopt.methods.nasb.search import AlternatingSearch
from nasopt.methods.nasb.settings import PRESETS
from nasopt.methods.nasb.stages import binarize, fine_tune_optimizer, full_precision

__all__ = [
    "CANDIDATES",
    "NASB",
    "PRESETS",
    "AlternatingSearch",
    "NASBCell",
    "binarize",
    "fine_tune_optimizer",
    "full_precision",
    "pack",
]
