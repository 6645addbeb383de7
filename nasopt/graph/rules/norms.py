"""Normalisations and other layers with weights per channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from nasopt.graph.call import Call
from nasopt.graph.cost_terms import Count
from nasopt.graph.facts import Weight
from nasopt.graph.registry import function_rule, layer_rule
from nasopt.graph.rewrite import normalized_shape
from nasopt.graph.weights import NOT_FOLLOWED, find_weight

_AFFINE = ("weight", "bias")
_STATISTICS = ("running_mean", "running_var")


@layer_rule(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, memory="in_place")
def batch_norm(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, nn.modules.batchnorm._NormBase)
    channels = _per_channel(call, _AFFINE + _STATISTICS)
    call.attribute("num_features", channels)
    if layer.running_mean is None:
        # Statistics of the batch: nothing is stored but what was learned.
        if layer.affine:
            _price(call, channels, bias=True)
    elif not _folds_into_layer_before(call):
        _price(call, channels, bias=True)
    return call.args[0]


@layer_rule(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, memory="in_place")
def instance_norm(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, nn.modules.batchnorm._NormBase)
    spatial = 1 if isinstance(layer, nn.InstanceNorm1d) else 2 if isinstance(layer, nn.InstanceNorm2d) else 3
    channels = _per_channel(call, _AFFINE + _STATISTICS, dim=-spatial - 1)
    call.attribute("num_features", channels)
    if layer.affine:
        _price(call, channels, bias=True)
    return call.args[0]


@function_rule(F.batch_norm, torch.batch_norm, memory="in_place")
def batch_norm_function(call: Call) -> Any:
    channels = call.channels(call.argument(0, "input"), 1)
    if not _slice_arguments(call, channels, ((1, "running_mean"), (2, "running_var"), (3, "weight"), (4, "bias"))):
        return call.fixed_unit(NOT_FOLLOWED)
    stored = [find_weight(call, *place) for place in ((3, "weight"), (4, "bias"), (1, "running_mean"))]
    if call.argument_node(1, "running_mean") is None:
        if call.argument_node(3, "weight") is not None or call.argument_node(4, "bias") is not None:
            _price(call, channels, bias=True, stored=stored)
    elif not _folds_into_layer_before(call):
        _price(call, channels, bias=True, stored=stored)
    return call.argument(0, "input")


@function_rule(F.instance_norm, memory="in_place")
def instance_norm_function(call: Call) -> Any:
    channels = call.channels(call.argument(0, "input"), 1)
    if not _slice_arguments(call, channels, ((1, "running_mean"), (2, "running_var"), (3, "weight"), (4, "bias"))):
        return call.fixed_unit(NOT_FOLLOWED)
    if call.argument_node(3, "weight") is not None:
        _price(call, channels, bias=True, stored=[find_weight(call, 3, "weight"), find_weight(call, 4, "bias")])
    return call.argument(0, "input")


def _living(x: Tensor, mask: Tensor, dims: tuple[int, ...], eps: float, centred: bool = True) -> Tensor:
    """`x` normalised along `dims` by mean and variance of what lives; `mask` broadcasts to it and varies along these alone."""
    alive = mask.to(x.dtype)
    count = alive.sum() * (math.prod(x.shape[dim] for dim in dims) / alive.numel())
    if centred:
        x = x - (x * alive).sum(dims, keepdim=True) / count
    return x * ((x.square() * alive).sum(dims, keepdim=True) / count + eps).rsqrt()


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _masked_group_norm(
    mask: Tensor, input: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    spatial = (1,) * (input.dim() - 2)
    factors = (None if one is None else one.reshape(-1, *spatial) for one in (weight, bias))
    return _affine(_living(input, mask, tuple(range(1, input.dim())), eps), *factors)


def _masked_layer_norm(
    mask: Tensor, input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    return _affine(_living(input, mask, _last(input, normalized_shape), eps), weight, bias)


def _masked_rms_norm(
    mask: Tensor, input: Tensor, normalized_shape: Any, weight: Any = None, eps: float | None = None
) -> Tensor:
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    return _affine(_living(input, mask, _last(input, normalized_shape), eps, centred=False), weight, None)


def _last(x: Tensor, sizes: Sequence[int]) -> tuple[int, ...]:
    return tuple(range(x.dim() - len(sizes), x.dim()))


def _run_group_norm(layer: Any, x: Tensor, mask: Tensor) -> Tensor:
    spread = mask.reshape(-1, *(1,) * (x.dim() - 2))
    return _masked_group_norm(spread, x, 1, layer.weight, layer.bias, layer.eps)


@layer_rule(
    nn.GroupNorm,
    searchable="passes whole norm groups on; channels where there is one group",
    run_masked=_run_group_norm,
    memory="in_place",
)
def group_norm(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, nn.GroupNorm)
    channels = call.channels(call.args[0], 1)
    if layer.num_groups > 1:
        call.attribute("num_groups", _unite_norm_groups(call, channels, layer.num_groups))
    elif layer.affine:
        call.reads("weight", 0, channels)
    else:
        call.fix(channels, "all channels share one mean and variance")
    for name in _AFFINE:
        call.slices(name, 0, channels)
    call.attribute("num_channels", channels)
    if layer.affine:
        _price(call, channels, bias=True)
    return call.args[0]


@function_rule(F.group_norm, torch.group_norm, memory="in_place", run_masked=_masked_group_norm)
def group_norm_function(call: Call) -> Any:
    channels = call.channels(call.argument(0, "input"), 1)
    if not _slice_arguments(call, channels, ((2, "weight"), (3, "bias"))):
        return call.fixed_unit(NOT_FOLLOWED)
    groups = int(call.argument(1, "num_groups"))
    if groups > 1:
        first = _unite_norm_groups(call, channels, groups)
        call.attribute("num_groups" if "num_groups" in call.node.kwargs else 1, first)
    else:
        call.reads_argument(0, "input", 1, channels)
    if call.argument_node(2, "weight") is not None:
        _price(call, channels, bias=True, stored=[find_weight(call, 2, "weight"), find_weight(call, 3, "bias")])
    return call.argument(0, "input")


def _unite_norm_groups(call: Call, channels: Tensor, groups: int) -> Tensor:
    """Channels that share statistics stay together; returns one label per norm group."""
    table = channels.reshape(groups, -1)
    call.unite(table, table[:, :1].expand_as(table))
    return table[:, 0]


def _run_last(layer: Any, x: Tensor, mask: Tensor) -> Tensor:
    if isinstance(layer, nn.LayerNorm):
        return _masked_layer_norm(mask, x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
    return _masked_rms_norm(mask, x, layer.normalized_shape, layer.weight, layer.eps)


@layer_rule(
    nn.LayerNorm,
    *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []),
    searchable="channels of the dimensions it normalises",
    run_masked=_run_last,
    memory="in_place",
    rewrite=normalized_shape,
)
def layer_norm(call: Call) -> Any:
    layer: Any = call.module
    x, first = call.args[0], call.args[0].dim() - len(layer.normalized_shape)
    along = [dim for dim in call.labels.varying(x) if dim >= first]
    if not layer.elementwise_affine:
        call.fix([x] * len(along), "all channels share one mean and variance")
        return x
    count: Count = layer.weight.numel()
    for dim in along:
        count = call.labels.line(x, dim)
        call.reads("weight", dim - first, count)
        call.slices("bias", dim - first, count)
    _price(call, _every_position(count, layer.weight), bias=getattr(layer, "bias", None) is not None)
    return x


@function_rule(
    F.layer_norm,
    torch.layer_norm,
    takes_sizes=True,
    run_masked=_masked_layer_norm,
    memory="in_place",
    rewrite=normalized_shape,
)
def layer_norm_function(call: Call) -> Any:
    return _last_norm_function(call, ((2, "weight"), (3, "bias")))


@function_rule(
    *([F.rms_norm, torch.rms_norm] if hasattr(F, "rms_norm") else []),
    takes_sizes=True,
    run_masked=_masked_rms_norm,
    memory="in_place",
    rewrite=normalized_shape,
)
def rms_norm_function(call: Call) -> Any:
    return _last_norm_function(call, ((2, "weight"),))


def _last_norm_function(call: Call, factors: tuple[tuple[int, str], ...]) -> Any:
    x = call.argument(0, "input")
    first, weight = x.dim() - len(tuple(call.argument(1, "normalized_shape"))), call.argument_node(2, "weight")
    count: Count = call.value.shape[first:].numel()
    for dim in [dim for dim in call.labels.varying(x) if dim >= first]:
        count = call.labels.line(x, dim)
        if not _slice_arguments(call, count, factors, dim - first):
            return call.fixed_unit(NOT_FOLLOWED)
        call.reads_argument(0, "input", dim, count)
    if isinstance(weight, fx.Node):
        is_biased = len(factors) > 1 and call.argument_node(3, "bias") is not None
        stored = [find_weight(call, position, name) for position, name in factors]
        _price(call, _every_position(count, weight.meta["value"]), bias=is_biased, stored=stored)
    return x


def _every_position(count: Count, weight: Tensor) -> Count:
    """One label for every number of a weight, which may have further dimensions."""
    return count if isinstance(count, int) else count.repeat_interleave(weight.numel() // len(count))


@layer_rule(nn.LocalResponseNorm, nn.CrossMapLRN2d, searchable="fixes its channels")
def local_response_norm(call: Call) -> Any:
    return call.fixed_unit("it mixes neighbouring channels")


@function_rule(F.local_response_norm)
def local_response_norm_function(call: Call) -> Any:
    return call.fixed_unit("it mixes neighbouring channels")


@layer_rule(nn.PReLU, memory="in_place")
def prelu(call: Call) -> Any:
    layer: Any = call.module
    x = call.args[0]
    if layer.weight.numel() == 1:
        call.cost("parameter", 1, 1, groups=1)
        return x
    channels = call.channels(x, 1)
    call.slices("weight", 0, channels)
    call.attribute("num_parameters", channels)
    call.cost("parameter", 1, channels)
    return x


@function_rule(F.prelu, torch.prelu, "prelu", memory="in_place")
def prelu_function(call: Call) -> Any:
    x, weight = call.argument(0, "input"), call.argument_node(1, "weight")
    if weight.meta["value"].numel() == 1:
        call.cost("parameter", 1, 1, groups=1)
        return x
    channels = call.channels(x, 1)
    if not _slice_arguments(call, channels, ((1, "weight"),)):
        return call.fixed_unit(NOT_FOLLOWED)
    call.cost("parameter", 1, channels)
    return x


def _price(call: Call, count: Count, bias: bool, stored: Sequence[Weight | None] = ()) -> None:
    """A norm with one weight per position of `count`, applied wherever these positions occur in one sample.

    Channels in front have a spatial size after them; a norm over the last dimensions has rows. A function's factors are those
    that are `stored`: calls that share the first of them share their storage.
    """
    channels = count if isinstance(count, int) else len(count)
    positions = max(call.value.numel() // call.batch // max(channels, 1), 1)
    spatial = tuple(call.value.shape[2:]) if not isinstance(count, int) else ()
    size = spatial if math.prod(spatial) == positions else (positions,)
    sizes: dict[str, Any] = {"positions": positions, "output_size": size, "groups": count, "bias": bias}
    own = [one for one in stored if one is not None]
    call.cost("norm", count, count, **sizes, weight=own[0] if own else None)
    for one in own[1:]:
        call.covers(one)


def _per_channel(call: Call, names: tuple[str, ...], dim: int | None = None) -> Tensor:
    """Slice parameters and statistics with the channels that pass."""
    x = call.args[0]
    channels = call.channels(x, min(1, x.dim() - 1) if dim is None else dim)
    for name in names:
        call.slices(name, 0, channels)
    return channels


def _slice_arguments(call: Call, channels: Tensor, arguments: tuple[tuple[int, str], ...], dim: int = 0) -> bool:
    """Slice tensors that are passed directly; False where one of them is computed."""
    for position, name in arguments:
        weight = find_weight(call, position, name)
        if weight is not None:
            call.slices(weight, dim, channels)
        elif call.argument_node(position, name) is not None:
            return False
    return True


def _folds_into_layer_before(call: Call) -> bool:
    """Whether deployment merges this norm into the layer that feeds it; that layer then has a bias."""
    before = call.node.args[0] if call.node.args else call.node.kwargs.get("input")
    return isinstance(before, fx.Node) and call.fold_bias_into(before)
