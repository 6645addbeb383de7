"""Normalisations and other layers with weights per channel."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from nasopt.graph.call import Call
from nasopt.graph.facts import Count
from nasopt.graph.registry import function_rule, layer_rule
from nasopt.graph.weights import find_weight

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
        return call.fixed_unit("its weight is computed, not a parameter of the model")
    if call.argument_node(1, "running_mean") is None:
        if call.argument_node(3, "weight") is not None or call.argument_node(4, "bias") is not None:
            _price(call, channels, bias=True)
    elif not _folds_into_layer_before(call):
        _price(call, channels, bias=True)
    return call.argument(0, "input")


@function_rule(F.instance_norm, memory="in_place")
def instance_norm_function(call: Call) -> Any:
    channels = call.channels(call.argument(0, "input"), 1)
    if not _slice_arguments(call, channels, ((1, "running_mean"), (2, "running_var"), (3, "weight"), (4, "bias"))):
        return call.fixed_unit("its weight is computed, not a parameter of the model")
    if call.argument_node(3, "weight") is not None:
        _price(call, channels, bias=True)
    return call.argument(0, "input")


@layer_rule(nn.GroupNorm, searchable="passes whole norm groups on", memory="in_place")
def group_norm(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, nn.GroupNorm)
    channels = call.channels(call.args[0], 1)
    first = _unite_norm_groups(call, channels, layer.num_groups)
    for name in _AFFINE:
        call.slices(name, 0, channels)
    call.attribute("num_channels", channels)
    call.attribute("num_groups", first)
    if layer.affine:
        _price(call, channels, bias=True)
    return call.args[0]


@function_rule(F.group_norm, torch.group_norm, memory="in_place")
def group_norm_function(call: Call) -> Any:
    channels = call.channels(call.argument(0, "input"), 1)
    if not _slice_arguments(call, channels, ((2, "weight"), (3, "bias"))):
        return call.fixed_unit("its weight is computed, not a parameter of the model")
    first = _unite_norm_groups(call, channels, int(call.argument(1, "num_groups")))
    call.attribute("num_groups" if "num_groups" in call.node.kwargs else 1, first)
    if call.argument_node(2, "weight") is not None:
        _price(call, channels, bias=True)
    return call.argument(0, "input")


def _unite_norm_groups(call: Call, channels: Tensor, groups: int) -> Tensor:
    """Channels that share statistics stay together; returns one label per norm group."""
    table = channels.reshape(groups, -1)
    if groups == 1:
        call.fix(channels, "all channels share one mean and variance")
    else:
        call.unite(table, table[:, :1].expand_as(table))
    return table[:, 0]


@layer_rule(
    nn.LayerNorm,
    *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []),
    searchable="fixes the dimensions it normalises",
    memory="in_place",
)
def layer_norm(call: Call) -> Any:
    layer: Any = call.module
    _fix_last(call, call.args[0], len(layer.normalized_shape))
    if layer.elementwise_affine:
        count = layer.weight.numel()
        _price(call, count, bias=getattr(layer, "bias", None) is not None)
    return call.args[0]


@function_rule(
    F.layer_norm,
    torch.layer_norm,
    *([F.rms_norm, torch.rms_norm] if hasattr(F, "rms_norm") else []),
    memory="in_place",
)
def layer_norm_function(call: Call) -> Any:
    x = call.argument(0, "input")
    _fix_last(call, x, len(tuple(call.argument(1, "normalized_shape"))))
    weight = call.argument_node(2, "weight")
    if isinstance(weight, fx.Node):
        count = weight.meta["value"].numel()
        _price(call, count, bias=call.argument_node(3, "bias") is not None)
    return x


def _fix_last(call: Call, x: Tensor, dims: int) -> None:
    for dim in range(x.dim() - dims, x.dim()):
        if call.labels.varies(x, dim):
            call.fix(x, "all channels share one mean and variance")


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
        return call.fixed_unit("its weight is computed, not a parameter of the model")
    call.cost("parameter", 1, channels)
    return x


def _price(call: Call, count: Count, bias: bool) -> None:
    """A norm with one weight per position of `count`, applied wherever these positions stand in one sample.

    Channels that stand in front have a spatial size behind them; a norm over the last dimensions has rows.
    """
    channels = count if isinstance(count, int) else len(count)
    positions = max(call.value.numel() // call.batch // max(channels, 1), 1)
    spatial = tuple(call.value.shape[2:]) if not isinstance(count, int) else ()
    size = spatial if math.prod(spatial) == positions else (positions,)
    call.cost("norm", count, count, positions=positions, output_size=size, groups=count, bias=bias)


def _per_channel(call: Call, names: tuple[str, ...], dim: int | None = None) -> Tensor:
    """Slice parameters and statistics with the channels that pass."""
    x = call.args[0]
    channels = call.channels(x, min(1, x.dim() - 1) if dim is None else dim)
    for name in names:
        call.slices(name, 0, channels)
    return channels


def _slice_arguments(call: Call, channels: Tensor, arguments: tuple[tuple[int, str], ...]) -> bool:
    """Slice tensors that are passed directly; False where one of them is computed."""
    for position, name in arguments:
        weight = find_weight(call, position, name)
        if weight is not None:
            call.slices(weight, 0, channels)
        elif call.argument_node(position, name) is not None:
            return False
    return True


def _folds_into_layer_before(call: Call) -> bool:
    """Whether deployment merges this norm into the layer that feeds it; that layer then has a bias."""
    before = call.node.args[0] if call.node.args else call.node.kwargs.get("input")
    return isinstance(before, fx.Node) and call.fold_bias_into(before)
