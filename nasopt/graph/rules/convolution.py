"""Convolutions: dense, depthwise (with a multiplier), grouped, and transposed; as layers and as functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.graph.call import Call
from nasopt.graph.cost_terms import Count
from nasopt.graph.facts import Weight
from nasopt.graph.layer_shape import Kind
from nasopt.graph.registry import function_rule, layer_rule
from nasopt.graph.weights import NOT_FOLLOWED, find_weight


def _run_convolution(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    return layer._conv_forward(x, weight, layer.bias)


@layer_rule(
    nn.Conv1d,
    nn.Conv2d,
    searchable="channels, kernel",
    run=_run_convolution,
    masks_input=True,
    searchable_kernel=True,
)
@layer_rule(nn.Conv3d, searchable="channels", run=_run_convolution, masks_input=True)
def convolution_layer(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    bias = "bias" if layer.bias is not None else None
    read, written = _convolution(call, "weight", bias, layer.weight, layer.groups, layer.stride)
    call.attribute("in_channels", read)
    call.attribute("out_channels", written)
    if _is_depthwise(layer.weight, layer.groups):
        call.attribute("groups", read)
    return call.spread(written, 1 - layer.weight.dim())


@function_rule(F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d)
def convolution_function(call: Call) -> Any:
    weight, bias = find_weight(call, 1, "weight"), find_weight(call, 2, "bias")
    tensor = call.argument_node(1, "weight").meta["value"]
    stride, groups = call.argument(3, "stride", 1), call.argument(6, "groups", 1)
    if weight is None or (call.argument_node(2, "bias") is not None and bias is None):
        spatial, samples = tensor.dim() - 2, call.batch
        filters = call.argument(1, "weight")
        is_one_each = _is_depthwise(tensor, groups) and call.labels.varying(filters) == [0]
        is_shared = call.argument_node(1, "weight") not in call.facts.samples
        if is_one_each and is_shared and call.argument_node(2, "bias") is None:
            return _made_filters(call, filters, tensor, groups)
        # A weight for every sample: all of them lie along the channels, in a group each.
        is_apart = call.value.shape[0] == 1 < samples and groups % samples == 0
        outputs = tensor.shape[0] // samples if is_apart else tensor.shape[0]
        positions = math.prod(_of_one_sample(call, call.value, spatial))
        call.cost("matmul", tensor[0].numel(), outputs, positions=positions)
        return call.fixed_unit(NOT_FOLLOWED)
    strides = tuple(stride) if isinstance(stride, (tuple, list)) else (stride,) * (tensor.dim() - 2)
    read, written = _convolution(call, weight, bias, tensor, groups, strides)
    if _is_depthwise(tensor, groups):
        call.attribute("groups" if "groups" in call.node.kwargs else 6, read)
    return call.spread(written, 1 - tensor.dim())


def _made_filters(call: Call, filters: Tensor, tensor: Tensor, groups: int) -> Tensor:
    """A depthwise convolution whose filters are made for as many channels as there are; the same for all samples."""
    spatial = tensor.dim() - 2
    read, written = call.channels(call.argument(0, "input"), -spatial - 1), call.labels.line(filters, 0)
    call.unite(written, read.repeat_interleave(tensor.shape[0] // groups))
    positions = math.prod(_of_one_sample(call, call.value, spatial))
    call.cost("matmul", tensor[0].numel(), written, positions=positions)
    call.attribute("groups" if "groups" in call.node.kwargs else 6, read)
    return call.spread(written, 1 - tensor.dim())


def _of_one_sample(call: Call, x: Tensor, spatial: int) -> tuple[int, ...]:
    """Spatial size; images of one sample that lie along the batch dimension (frames, windows, electrodes) count as stacked."""
    rows = max(x.shape[0] // call.batch, 1) if x.dim() == spatial + 2 else 1
    return (x.shape[-spatial] * rows, *x.shape[x.dim() - spatial + 1 :])


def _is_depthwise(weight: Tensor, groups: int) -> bool:
    return groups > 1 and weight.shape[1] == 1


def _convolution(
    call: Call, weight: str | Weight, bias: str | Weight | None, tensor: Tensor, groups: int, stride: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Channels read and written, shapes `(in,)` and `(out,)`."""
    spatial = tensor.dim() - 2
    read = call.channels(call.argument(0, "input"), -spatial - 1)
    size = _of_one_sample(call, call.value, spatial)
    sizes: dict[str, Any] = {
        "kernel": tuple(tensor.shape[2:]),
        "positions": math.prod(size),
        "output_size": size,
        "stride": tuple(stride),
    }
    is_biased = bias if isinstance(bias, Weight) else bias is not None
    if _is_depthwise(tensor, groups):
        written = read.repeat_interleave(tensor.shape[0] // groups)
        call.slices(weight, 0, written)
        sizes |= {"groups": read, "changes_kind": True}
        price_layer(call, "depthwise", read, written, bias=is_biased, weight=weight, **sizes)
    else:
        in_one_group = unite_groups(call, read, groups)
        written = call.writes(weight, 0, tensor.shape[0] // groups, repeat=groups)
        call.reads(weight, 1, in_one_group)
        sizes |= {"groups": groups, "changes_kind": groups > 1}
        price_layer(call, "conv", read, written, bias=is_biased, weight=weight, **sizes)
    if bias is not None:
        call.slices(bias, 0, written)
    return read, written


def price_layer(
    call: Call, kind: Kind, read: Tensor, written: Count, *, weight: str | Weight, bias: bool | Weight, **sizes: Any
) -> None:
    """Price a layer. Where no parameter holds its weight, the work alone: the parameters are priced one by one."""
    if isinstance(weight, Weight) and weight.stored is None:
        groups, taps = sizes.get("groups", 1), math.prod(sizes.get("kernel", ()))
        # Products summed for one output: all taps of the channels of one group, which keeps as many as any other.
        one_group = read[: len(read) // groups].repeat_interleave(taps) if isinstance(groups, int) else taps
        call.cost("matmul", one_group, written, positions=sizes["positions"])
    else:
        call.cost(kind, read, written, bias=bias, weight=weight, **sizes)


def unite_groups(call: Call, channels: Tensor, groups: int) -> Tensor:
    """Labels of one group's channels, after position j of every group has been united, so that all keep equal counts."""
    table = channels.reshape(groups, -1)
    call.unite(table, table[:1].expand_as(table))
    return table[0]


def _run_transposed(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    function = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[weight.dim() - 2]
    return function(
        x, weight, layer.bias, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
    )


@layer_rule(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, searchable="channels", run=_run_transposed)
def transposed_convolution(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
    if len(call.args) + len(call.kwargs) > 1:
        call.unpriced()
        return call.fixed_unit("a transposed convolution with output_size is not followed")
    bias = "bias" if layer.bias is not None else None
    read, written = _transposed(call, "weight", bias, layer.weight, layer.groups, layer.stride)
    call.attribute("in_channels", read)
    call.attribute("out_channels", written)
    if _is_transposed_depthwise(layer.weight, layer.groups):
        call.attribute("groups", read)
    return call.spread(written, 1 - layer.weight.dim())


@function_rule(
    *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
    *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
)
def transposed_convolution_function(call: Call) -> Any:
    weight, bias = find_weight(call, 1, "weight"), find_weight(call, 2, "bias")
    tensor = call.argument_node(1, "weight").meta["value"]
    stride, groups = call.argument(3, "stride", 1), call.argument(6, "groups", 1)
    if weight is None or (call.argument_node(2, "bias") is not None and bias is None):
        positions = call.argument(0, "input").shape[2 - tensor.dim() :].numel()
        call.cost("matmul", tensor.shape[0] // groups, tensor[0].numel() * groups, positions=positions)
        return call.fixed_unit(NOT_FOLLOWED)
    strides = tuple(stride) if isinstance(stride, (tuple, list)) else (stride,) * (tensor.dim() - 2)
    read, written = _transposed(call, weight, bias, tensor, groups, strides)
    if _is_transposed_depthwise(tensor, groups):
        call.attribute("groups" if "groups" in call.node.kwargs else 6, read)
    return call.spread(written, 1 - tensor.dim())


def _is_transposed_depthwise(weight: Tensor, groups: int) -> bool:
    return groups > 1 and groups == weight.shape[0]


def _transposed(
    call: Call, weight: str | Weight, bias: str | Weight | None, tensor: Tensor, groups: int, stride: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Channels read and written, shapes `(in,)` and `(out,)`."""
    spatial = tensor.dim() - 2
    x = call.argument(0, "input")
    read = call.channels(x, -spatial - 1)
    sizes: dict[str, Any] = {
        "kernel": tuple(tensor.shape[2:]),
        "positions": math.prod(_of_one_sample(call, x, spatial)),
        "output_size": _of_one_sample(call, call.value, spatial),
        "stride": tuple(stride),
        "bias": bias if isinstance(bias, Weight) else bias is not None,
        "weight": weight,
    }
    if _is_transposed_depthwise(tensor, groups):
        written = read.repeat_interleave(tensor.shape[1])
        call.slices(weight, 0, read)
        price_layer(call, "conv_transpose", read, written, groups=read, **sizes)
    else:
        unite_groups(call, read, groups)
        # The weight holds the output channels of one group only: position j is the same in every group.
        written = call.writes(weight, 1, tensor.shape[1]).repeat(groups)
        call.reads(weight, 0, read)
        price_layer(call, "conv_transpose", read, written, groups=groups, **sizes)
    if bias is not None:
        call.slices(bias, 0, written)
    return read, written
