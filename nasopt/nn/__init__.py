"""Layers that a found network may contain beside those of torch."""

from nasopt.nn.binary import BinaryActivation, BinaryConv2d, TwinActivation, TwinConv2d
from nasopt.nn.cell_layers import Align2d, CellPool2d, Zero
from nasopt.nn.mode import ByMode

__all__ = [
    "Align2d",
    "BinaryActivation",
    "BinaryConv2d",
    "ByMode",
    "CellPool2d",
    "TwinActivation",
    "TwinConv2d",
    "Zero",
]
