"""Layers and functions that are several operations of a TFLite file: norms, activations that have no kernel, attention.

Read off the int8 files that litert-torch 0.10 and its quantiser write.
"""

from __future__ import annotations

import operator
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.graph.lowering_parts import FLOAT, GIVEN, Lowering, Part, moved, part


def _layer_norm(layer: Any, given: Tensor) -> list[Part]:
    rows = (
        given[0].numel() // prod(layer.normalized_shape) if layer is not None else given[0].numel() // given.shape[-1]
    )
    parts = [
        part("MEAN RESHAPE", 0, elements=rows),
        part("SQUARED_DIFFERENCE", 0, 1),
        part("MEAN ADD RSQRT", 2, elements=rows, constants=1),
        part("MUL SUB RESHAPE", 3, 1, elements=rows, constants=1),
        part("RESHAPE MUL", 0, 3),
        part("ADD", 5, 4),
    ]
    if layer is None or layer.elementwise_affine:
        parts += [part("MUL", 6, constants=1), part("ADD", 7, constants=1)]
    if given.dim() == 3:
        return [moved(one, -1) for one in parts]
    return [part("RESHAPE"), *parts, part("RESHAPE", len(parts))]


def _group_norm(layer: Any, given: Tensor) -> list[Part]:
    groups, channels = (layer.num_groups if layer is not None else 1), given.shape[1]
    affine = layer is None or layer.affine
    return [
        part("RESHAPE"),
        part("MEAN", 0, elements=groups),
        part("SUB", 0, 1),
        part("MUL", 2),
        part("MEAN ADD RESHAPE RSQRT" if groups > 1 else "MEAN ADD RSQRT", 3, elements=groups, constants=1),
        part("MUL" if affine else "BROADCAST_TO", 4, elements=channels, constants=1),
        part("MUL MUL ADD" if affine else "MUL MUL BROADCAST_TO", 1, 5, elements=channels, constants=2),
        part("RESHAPE", 5, elements=channels),
        part("RESHAPE", 6, elements=channels),
        part("MUL", GIVEN, 7),
        part("ADD", 9, 8),
    ]


def _instance_norm(layer: Any, given: Tensor) -> list[Part]:
    channels = given.shape[1]
    parts = [
        part("MEAN", elements=channels),
        part("SUB", GIVEN, 0),
        part("MUL", 1),
        part("MEAN ADD RESHAPE RSQRT", 2, elements=channels, constants=1),
        part("MUL", 1, 3),
    ]
    scaled = [part("MUL", 4, constants=1), part("ADD", 5, constants=1)]
    return parts if layer is not None and not layer.affine else [*parts, *scaled]


def _constant(*parts: Part) -> Lowering:
    return lambda layer, given: list(parts)


def _alone(kind: str) -> Lowering:
    """A function that has no integers."""
    return _constant(part("DEQUANTIZE", width=FLOAT), part(kind, 0, width=FLOAT), part("QUANTIZE", 1))


def clipped(low: float | None, high: float | None) -> list[Part]:
    """Between bounds that no kernel has in integers."""
    below = [part("MAXIMUM", constants=1)] if low is not None else []
    if high is None:
        return below
    above = [part("DEQUANTIZE", width=FLOAT), part("MINIMUM", 0, width=FLOAT, constants=1), part("QUANTIZE", 1)]
    return [*below, *(moved(one, len(below)) for one in above)]


def _hardtanh(layer: Any, given: Tensor) -> list[Part]:
    low, high = (layer.min_val, layer.max_val) if layer is not None else (0.0, 6.0)
    return _alone("RELU6")(layer, given) if low == 0.0 else clipped(low, high)


def maximum_over(given: Tensor) -> list[Part]:
    """Over other dimensions than all of space."""
    whole = given[0].numel()
    return [
        part("DEQUANTIZE", elements=whole, width=FLOAT),
        part("REDUCE_MAX", 0, width=FLOAT, constants=1),
        part("QUANTIZE", 1),
    ]


def _variance(root: bool) -> Lowering:
    def parts(layer: Any, given: Tensor) -> list[Part]:
        whole = given[0].numel()
        found = [
            part("MEAN"),
            part("SUB", GIVEN, 0, elements=whole),
            part("MUL", 1, elements=whole),
            part("SUM MUL", 2, constants=1),
        ]
        return [*found, *(moved(one, len(found)) for one in _alone("SQRT")(None, given))] if root else found

    return parts


def _attention(layer: Any, given: Tensor) -> list[Part]:
    """Softmax of the products of queries and keys, times values."""
    scores = given[0].numel() // given.shape[-1] * given.shape[-2]
    if given.dim() == 3:
        return [
            part("BATCH_MATMUL RESHAPE", elements=scores),
            part("SOFTMAX RESHAPE", 0, elements=scores),
            part("BATCH_MATMUL", GIVEN, 1),
        ]
    return [
        part("MUL RESHAPE TRANSPOSE", constants=1),
        part("MUL RESHAPE TRANSPOSE RESHAPE", constants=1),
        part("BATCH_MATMUL RESHAPE", 0, 1, elements=scores),
        part("SOFTMAX RESHAPE", 2, elements=scores),
        part("BATCH_MATMUL RESHAPE", GIVEN, 3),
    ]


_IN_FLOAT = (
    part("DEQUANTIZE", width=FLOAT),
    part("EXP", 0, width=FLOAT),
    part("QUANTIZE", 1),
    part("SUB", 2, constants=1),
)
_ELU = _constant(*_IN_FLOAT, part("GREATER_EQUAL", 0, constants=1), part("QUANTIZE"), part("SELECT_V2", 4, 5, 3))
_SOFTPLUS = (
    *_IN_FLOAT,
    part("DEQUANTIZE", 3, width=FLOAT),
    part("LOG", 4, width=FLOAT),
    part("GREATER", 0, constants=1),
    part("QUANTIZE"),
    part("QUANTIZE", 5),
    part("SELECT_V2", 6, 7, 8),
)


_MOVES = ("RESHAPE", "TRANSPOSE", "RESHAPE", "TRANSPOSE", "RESHAPE")
_LAYERS: tuple[tuple[tuple[type[nn.Module], ...], Lowering], ...] = (
    ((nn.LayerNorm,), _layer_norm),
    ((nn.GroupNorm,), _group_norm),
    ((nn.InstanceNorm1d, nn.InstanceNorm2d), _instance_norm),
    (
        (nn.modules.batchnorm._BatchNorm,),  # one that no layer absorbs
        _constant(*(part(kind, i - 1, constants=1) for i, kind in enumerate(("SUB", "MUL", "MUL", "ADD")))),
    ),
    (
        (nn.PReLU,),
        _constant(part("RELU"), part("MUL", constants=1), part("MUL", 1, constants=1), part("SUB", 0, 2)),
    ),
    ((nn.LeakyReLU,), _constant(part("MUL", constants=1), part("QUANTIZE"), part("MAXIMUM", 1, 0))),
    ((nn.ELU, nn.CELU), _ELU),
    (
        (nn.SELU,),
        _constant(
            *_IN_FLOAT,
            part("MUL", 3, constants=1),
            part("MUL", constants=1),
            part("GREATER_EQUAL", 0, constants=1),
            part("SELECT_V2", 6, 5, 4),
        ),
    ),
    ((nn.Softplus,), _constant(*_SOFTPLUS)),
    ((nn.Mish,), _constant(*_SOFTPLUS, part("TANH", 9), part("MUL", GIVEN, 10))),
    ((nn.SiLU,), _constant(part("LOGISTIC"), part("MUL", GIVEN, 0))),
    ((nn.ReLU6, nn.Hardtanh), _hardtanh),
    (
        (nn.GLU,),
        _constant(part("SLICE", constants=2), part("SLICE", constants=1), part("LOGISTIC", 1), part("MUL", 0, 2)),
    ),
    ((nn.LogSoftmax,), _alone("LOG_SOFTMAX")),
    ((nn.PixelShuffle, nn.PixelUnshuffle), _constant(*(part(kind, i - 1) for i, kind in enumerate(_MOVES)))),
    ((nn.ChannelShuffle,), _constant(*(part(kind, i - 1) for i, kind in enumerate(_MOVES[:3])))),
    (
        (nn.Softsign,),
        _constant(*_alone("ABS")(None, torch.empty(0)), part("ADD", 2, constants=1), part("DIV", GIVEN, 3)),
    ),
)
_COMPARISONS = (
    operator.gt,
    operator.ge,
    operator.lt,
    operator.le,
    torch.gt,
    torch.ge,
    torch.lt,
    torch.le,
    "gt",
    "ge",
    "lt",
    "le",
)
_compare = _constant(part("DEQUANTIZE", width=FLOAT), part("GREATER", 0, constants=1))
_FUNCTIONS: dict[object, type[nn.Module] | Lowering] = {
    F.group_norm: nn.GroupNorm,
    F.instance_norm: nn.InstanceNorm2d,
    F.layer_norm: nn.LayerNorm,
    F.prelu: nn.PReLU,
    F.leaky_relu: nn.LeakyReLU,
    F.elu: nn.ELU,
    F.selu: nn.SELU,
    F.softplus: nn.Softplus,
    F.mish: nn.Mish,
    F.silu: nn.SiLU,
    F.relu6: nn.ReLU6,
    F.glu: nn.GLU,
    F.log_softmax: nn.LogSoftmax,
    torch.log_softmax: nn.LogSoftmax,
    "log_softmax": nn.LogSoftmax,
    F.pixel_shuffle: nn.PixelShuffle,
    **dict.fromkeys(_COMPARISONS, _compare),
    torch.sqrt: _alone("SQRT"),  # in float, too: there and back again
    "sqrt": _alone("SQRT"),
    torch.exp: _alone("EXP"),
    "exp": _alone("EXP"),
    torch.log: _alone("LOG"),
    "log": _alone("LOG"),
    torch.abs: _alone("ABS"),
    "abs": _alone("ABS"),
    torch.sin: _alone("SIN"),
    "sin": _alone("SIN"),
    "cos": _alone("COS"),
    torch.cos: _alone("COS"),
    torch.flip: _alone("REVERSE_V2"),
    "flip": _alone("REVERSE_V2"),
    torch.minimum: _alone("MINIMUM"),
    torch.var: _variance(root=False),
    "var": _variance(root=False),
    torch.std: _variance(root=True),
    "std": _variance(root=True),
    F.scaled_dot_product_attention: _attention,
    torch.roll: _constant(part("SLICE", constants=2), part("SLICE", constants=2), part("CONCATENATION", 0, 1)),
    "roll": _constant(part("SLICE", constants=2), part("SLICE", constants=2), part("CONCATENATION", 0, 1)),
    torch.stack: _constant(part("TRANSPOSE"), part("CONCATENATION", 0)),
    torch.where: _constant(part("QUANTIZE"), part("SELECT_V2", GIVEN, 0)),
    F.softsign: nn.Softsign,
}


def lowering_of(module: nn.Module | None, target: object) -> Lowering | None:
    entry = _FUNCTIONS.get(target) if module is None else type(module)
    if not isinstance(entry, type):
        return entry
    return next((found for kinds, found in _LAYERS if issubclass(entry, kinds)), None)
