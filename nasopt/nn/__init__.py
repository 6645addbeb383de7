"""Layers that a found network may contain beside those of torch."""

from nasopt.nn.adder import AdderConv2d, adder_norm, adder_separable
from nasopt.nn.binary import BinaryActivation, BinaryConv2d, TwinActivation, TwinConv2d
from nasopt.nn.cell_layers import Align2d, CellPool2d, Zero
from nasopt.nn.fractal import dense_fractal_block, fractal_block
from nasopt.nn.mode import ByMode, FunctionUnit, PathByMode
from nasopt.nn.multi_head import LightResidual, MeanVarianceECA, MultiHeadDepthwise, QuantNoise
from nasopt.nn.piecewise import PAActivation, PAConv2d
from nasopt.nn.quantise import Quantise
from nasopt.nn.quantised import (
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
    QuantLinear,
)
from nasopt.nn.quantised_norm import QuantBatchNorm
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
    "FunctionUnit",
    "LightResidual",
    "MeanVarianceECA",
    "MultiHeadDepthwise",
    "PAActivation",
    "PAConv2d",
    "PathByMode",
    "QuantBatchNorm",
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "QuantLinear",
    "QuantNoise",
    "Quantise",
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
