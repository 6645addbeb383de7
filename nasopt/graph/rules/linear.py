"""Fully connected layers and lookup tables."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.graph.call import Call
from nasopt.graph.facts import Weight
from nasopt.graph.registry import function_rule, layer_rule
from nasopt.graph.rules.convolution import price_layer
from nasopt.graph.weights import NOT_FOLLOWED, find_weight


def _run_linear(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight, layer.bias)


@layer_rule(nn.Linear, searchable="channels", run=_run_linear, masks_input=True)
def linear_layer(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, nn.Linear)
    read, written = _linear(call, "weight", "bias" if layer.bias is not None else None, layer.weight)
    call.attribute("in_features", read)
    call.attribute("out_features", written)
    return call.spread(written, -1)


@function_rule(F.linear, torch._C._nn.linear)
def linear_function(call: Call) -> Any:
    weight, bias = find_weight(call, 1, "weight"), find_weight(call, 2, "bias")
    tensor = call.argument_node(1, "weight").meta["value"]
    is_biased = call.argument_node(2, "bias") is not None
    if weight is None or tensor.dim() != 2 or (is_biased and bias is None):
        call.cost("matmul", tensor.shape[-1], tensor[..., 0].numel(), positions=_rows(call, tensor[..., 0].numel()))
        return call.fixed_unit(NOT_FOLLOWED)
    _, written = _linear(call, weight, bias, tensor)
    return call.spread(written, -1)


def _linear(call: Call, weight: str | Weight, bias: str | Weight | None, tensor: Tensor) -> tuple[Tensor, Tensor]:
    read = call.channels(call.argument(0, "input"), -1)
    written = call.writes(weight, 0, tensor.shape[0])
    call.reads(weight, 1, read)
    if bias is not None:
        call.slices(bias, 0, written)
    is_biased = bias if isinstance(bias, Weight) else bias is not None
    rows = _rows(call, tensor.shape[0])
    price_layer(call, "linear", read, written, positions=rows, bias=is_biased, weight=weight)
    return read, written


def _rows(call: Call, outputs: int) -> int:
    """Rows of one sample; an input without batch dimension is one row."""
    return max(call.value.numel() // outputs // call.batch, 1)


# Of a table that is also the weight of another layer.
_BY_NUMBER = "rows of a table are read by their number"


@layer_rule(nn.Embedding, searchable="channels")
def embedding(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, nn.Embedding)
    count, dim = layer.weight.shape
    if layer.max_norm is not None:
        call.cost("embedding", count, dim)
        return call.fixed_unit("max_norm mixes the channels of a row")
    written = call.writes("weight", 1, dim)
    call.facts.keep_whole(f"{call.node.target}.weight", 0, _BY_NUMBER)
    call.cost("embedding", count, written, weight="weight")
    call.attribute("embedding_dim", written)
    return call.spread(written, -1)


@function_rule(F.embedding)
def embedding_function(call: Call) -> Any:
    weight, max_norm = find_weight(call, 1, "weight"), call.argument(3, "max_norm")
    count, dim = call.argument(1, "weight").shape
    if weight is None or max_norm is not None:
        call.cost("embedding", count, dim)
        return call.fixed_unit("its channels are not those of a parameter")
    written = call.writes(weight, 1, dim)
    for source in weight.sources:
        if 0 in source.dims:
            call.facts.keep_whole(source.path, source.dims[0], _BY_NUMBER)
    call.cost("embedding", count, written, weight=weight)
    return call.spread(written, -1)


@layer_rule(nn.Bilinear, searchable="fixes its channels")
def bilinear(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, nn.Bilinear)
    outputs = layer.out_features
    sizes = (layer.in1_features * layer.in2_features, outputs)
    call.cost("linear", *sizes, positions=_rows(call, outputs), bias=layer.bias is not None, weight="weight")
    return call.fixed_unit("it multiplies all pairs of channels")


@function_rule(F.bilinear)
def bilinear_function(call: Call) -> Any:
    outputs, *sizes = call.argument_node(2, "weight").meta["value"].shape
    weight, bias = find_weight(call, 2, "weight"), find_weight(call, 3, "bias")
    call.cost("linear", math.prod(sizes), outputs, positions=_rows(call, outputs), bias=bias or False, weight=weight)
    return call.fixed_unit("it multiplies all pairs of channels")
