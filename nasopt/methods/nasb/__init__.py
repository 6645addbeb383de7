"""NASB: architecture search for binary networks."""

from nasopt.methods.nasb.alternating import AlternatingSearch
from nasopt.methods.nasb.candidates import CANDIDATES, PRESETS
from nasopt.methods.nasb.convert import binary_cells
from nasopt.methods.nasb.nasb import NASB
from nasopt.methods.nasb.pack import pack
from nasopt.methods.nasb.twin import binarize, fine_tune_optimizer, full_precision

__all__ = [
    "CANDIDATES",
    "NASB",
    "PRESETS",
    "AlternatingSearch",
    "binarize",
    "binary_cells",
    "fine_tune_optimizer",
    "full_precision",
    "pack",
]
