"""Layers that a found network may contain beside those of torch."""

from nasopt.nn.adder import AdderConv2d, adder_norm, adder_separable
from nasopt.nn.binary import BinaryActivation, BinaryConv2d, TwinActivation, TwinConv2d
from nasopt.nn.cell_layers import Align2d, CellPool2d, Zero
from nasopt.nn.fractal import dense_fractal_block, fractal_block
from nasopt.nn.mode import ByMode
from nasopt.nn.multi_head import LightResidual, MeanVarianceECA, MultiHeadDepthwise, QuantNoise
from nasopt.nn.reaf import ReafConv2d, ReafPlus
from nasopt.nn.weight_attention import AWConv2d

__all__ = [
    "AWConv2d",
    "AdderConv2d",
    "Align2d",
    "BinaryActivation",
    "BinaryConv2d",
    "ByMode",
    "CellPool2d",
    "LightResidual",
    "MeanVarianceECA",
    "MultiHeadDepthwise",
    "QuantNoise",
    "ReafConv2d",
    "ReafPlus",
    "TwinActivation",
    "TwinConv2d",
    "Zero",
    "adder_norm",
    "adder_separable",
    "dense_fractal_block",
    "fractal_block",
]
