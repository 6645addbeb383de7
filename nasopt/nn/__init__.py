"""Layers that a found network may contain beside those of torch."""

from nasopt.nn.binary import BinaryActivation, BinaryConv2d, TwinActivation, TwinConv2d
from nasopt.nn.cell_layers import Align2d, CellPool2d
from nasopt.nn.mode import ByMode, FunctionUnit, PathByMode

__all__ = [
    "Align2d",
    "BinaryActivation",
    "BinaryConv2d",
    "ByMode",
    "CellPool2d",
    "FunctionUnit",
    "PathByMode",
    "TwinActivation",
    "TwinConv2d",
]
