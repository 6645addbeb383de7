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


@layer_rule(nn.Fold, searchable="passes channels on, all positions of a patch alike")
def fold_layer(call: Call) -> Any:
    return _fold(call)


@function_rule(F.fold)
def fold_function(call: Call) -> Any:
    return _fold(call)


def _fold(call: Call) -> Any:
    """Patches are summed: the positions of one channel in a patch live and die together."""
    x = call.argument(0, "input")
    table = call.channels(x, -2).reshape(call.value.shape[-3], -1)
    call.unite(table, table[:, :1].expand_as(table))
    return call.spread(table[:, 0], -3)


_UNPOOL = [getattr(nn, f"MaxUnpool{n}d") for n in (1, 2, 3)]


@layer_rule(*_UNPOOL)
def unpool_layer(call: Call) -> Any:
    return _unpool(call, _UNPOOL.index(type(call.module)) + 1)


@function_rule(F.max_unpool1d, F.max_unpool2d, F.max_unpool3d)
def unpool_function(call: Call) -> Any:
    functions = (F.max_unpool1d, F.max_unpool2d, F.max_unpool3d)
    return _unpool(call, functions.index(call.node.target) + 1)  # type: ignore[arg-type]


def _unpool(call: Call, spatial: int) -> Any:
    call.unite(call.argument(0, "input"), call.argument(1, "indices"))
    return over_space(call, spatial)


@function_rule(F.grid_sample, torch.grid_sampler)
def grid_sample(call: Call) -> Any:
    """Values at positions that another tensor gives."""
    call.fix(call.argument(1, "grid"), "it says where another tensor is read")
    return over_space(call, call.value.dim() - 2)


_TRANSFORMS = [
    getattr(torch.fft, name)
    for name in "fft ifft rfft irfft hfft ihfft fft2 ifft2 rfft2 irfft2 fftn ifftn rfftn irfftn".split()  # noqa: SIM905
]


@function_rule(*_TRANSFORMS, torch.fft.fftshift, torch.fft.ifftshift, takes_sizes=True)
def fourier_transform(call: Call) -> Any:
    """Over dimensions without channels; its work is known to nobody."""
    x, name = call.argument(0, "input"), str(getattr(call.node.target, "__name__", ""))
    is_shift = "shift" in name
    given = call.argument(1 if is_shift else 2, "dim", -1 if name[-1] == "t" else (-2, -1) if name[-1] == "2" else None)
    sizes = None if is_shift else call.argument(1, "s")
    last = range(-len(sizes), 0) if given is None and sizes is not None else range(x.dim())
    dims = [d % x.dim() for d in ([given] if isinstance(given, int) else last if given is None else given)]
    if not is_shift:
        call.unpriced()
    if any(call.labels.varies(x, dim) for dim in dims):
        return call.fixed_unit("it is transformed over its channels")
    for dim in dims:
        x = x.narrow(dim, 0, 1)
    return x.expand(call.value.shape)


@function_rule(torch.stft, "stft", torch.istft, "istft", takes_sizes=True)
def short_time_transform(call: Call) -> Any:
    """Rows of samples to frequencies and frames, or back; its work is known to nobody."""
    x = call.argument(0, "input")
    call.unpriced()
    kept = (
        call.value.dim()
        - (1 if "istft" in str(call.node.target) else 2)
        - (not call.value.is_complex() and x.dim() < 3)
    )
    if kept < 1 or any(call.labels.varies(x, dim) for dim in range(1, x.dim())):
        return call.fixed_unit("it is transformed over its channels")
    return call.spread(call.labels.line(x, 0), 0)
