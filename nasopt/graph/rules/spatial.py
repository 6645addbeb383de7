"""Pooling, padding, resampling and unfolding: work over space, channels pass on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.graph.call import Call
from nasopt.graph.labels import NO_LABEL
from nasopt.graph.registry import function_rule, layer_rule
from nasopt.graph.rewrite import channel_padding

_POOL_LAYERS = [
    getattr(nn, f"{kind}{n}d")
    for kind in ("MaxPool", "AvgPool", "AdaptiveMaxPool", "AdaptiveAvgPool", "LPPool", "FractionalMaxPool")
    for n in (1, 2, 3)
    if hasattr(nn, f"{kind}{n}d")
]
_POOL_FUNCTIONS = {
    function: n
    for kind in ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool", "lp_pool")
    for n in (1, 2, 3)
    for owner in (F, torch)
    for ending in ("", "_with_indices")
    for function in [getattr(owner, f"{kind}{n}d{ending}", None)]
    if function is not None
}


@layer_rule(*_POOL_LAYERS)
def pool_layer(call: Call) -> Any:
    name = next(base.__name__ for base in type(call.module).__mro__ if base in _POOL_LAYERS)
    return over_space(call, int(name[-2]))


@function_rule(*_POOL_FUNCTIONS)
def pool_function(call: Call) -> Any:
    assert callable(call.node.target)
    return over_space(call, _POOL_FUNCTIONS[call.node.target])


@layer_rule(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)
def upsample_layer(call: Call) -> Any:
    return over_space(call, call.value.dim() - 2)


@function_rule(F.interpolate, F.upsample)
def interpolate(call: Call) -> Any:
    return over_space(call, call.value.dim() - 2)


def over_space(call: Call, spatial: int) -> Any:
    """Labels of a result whose last `spatial` dimensions have another size."""
    x = call.argument(0, "input")
    if any(call.labels.varies(x, dim) for dim in range(x.dim() - spatial, x.dim())):
        return call.fixed_unit("it works over a dimension along which channels vary")
    corner = x
    for dim in range(x.dim() - spatial, x.dim()):
        corner = corner.narrow(dim, 0, 1)
    parts = call.value if isinstance(call.value, (tuple, list)) else [call.value]
    spread = tuple(corner.expand(part.shape) for part in parts)
    return spread if isinstance(call.value, (tuple, list)) else spread[0]


_PAD_LAYERS = [
    getattr(nn, f"{kind}Pad{n}d")
    for kind in ("Constant", "Zero", "Reflection", "Replication", "Circular")
    for n in (1, 2, 3)
    if hasattr(nn, f"{kind}Pad{n}d")
]


@layer_rule(*_PAD_LAYERS, memory="view")
def pad_layer(call: Call) -> Any:
    layer: Any = call.module
    return over_space(call, len(layer.padding) // 2)


@function_rule(F.pad, torch._C._nn.pad, memory="view", rewrite=channel_padding)
def pad_function(call: Call) -> Any:
    """Padding along space is free; constant padding along channels adds channels that follow what they meet."""
    x, pad = call.argument(0, "input"), tuple(call.argument(1, "pad"))
    mode = call.argument(2, "mode", "constant")
    for i in range(len(pad) // 2):
        dim = x.dim() - 1 - i
        before, after = int(pad[2 * i]), int(pad[2 * i + 1])
        if before == after == 0:
            continue
        if not call.labels.varies(x, dim):
            shape = list(x.shape)
            shape[dim] += before + after
            x = (
                x.narrow(dim, 0, 1).expand(shape)
                if shape[dim] and x.shape[dim]
                else x.new_full((), NO_LABEL).expand(shape)
            )
        elif mode != "constant" or before < 0 or after < 0:
            return call.fixed_unit("it is padded along its channels by reflection, or cropped")
        else:
            line = torch.cat([call.labels.fresh(before), call.channels(x, dim), call.labels.fresh(after)])
            shape = list(x.shape)
            shape[dim] = len(line)
            x = call.spread(line, dim, shape)
    return x


@layer_rule(nn.Unfold)
def unfold_layer(call: Call) -> Any:
    return _unfold(call, call.args[0])


@function_rule(F.unfold)
def unfold_function(call: Call) -> Any:
    return _unfold(call, call.argument(0, "input"))


def _unfold(call: Call, x: Tensor) -> Any:
    channels = call.channels(x, 1)
    return call.spread(channels.repeat_interleave(call.value.shape[1] // len(channels)), 1)


@layer_rule(nn.Fold, searchable="fixes its channels")
def fold_layer(call: Call) -> Any:
    return call.fixed_unit("it sums patches")


@function_rule(F.fold)
def fold_function(call: Call) -> Any:
    return call.fixed_unit("it sums patches")
