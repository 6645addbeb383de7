"""Fully connected layers and lookup tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.graph.call import Call
from nasopt.graph.registry import function_rule, layer_rule


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
    weight, bias = call.parameter_path(1, "weight"), call.parameter_path(2, "bias")
    if weight is None or (call.argument_node(2, "bias") is not None and bias is None):
        call.unpriced()
        return call.fixed_unit("its weight is computed, not a parameter of the model")
    _, written = _linear(call, weight, bias, call.argument_node(1, "weight").meta["value"])
    return call.spread(written, -1)


def _linear(call: Call, weight: str, bias: str | None, tensor: Tensor) -> tuple[Tensor, Tensor]:
    read = call.channels(call.argument(0, "input"), -1)
    written = call.writes(weight, 0, tensor.shape[0])
    call.reads(weight, 1, read)
    if bias is not None:
        call.slices(bias, 0, written)
    rows = call.value.numel() // tensor.shape[0]
    # Rows of one sample; an input without batch dimension is one row.
    positions = max(rows // call.batch, 1)
    call.cost("linear", read, written, positions=positions, bias=bias is not None, weight=weight)
    return read, written


@layer_rule(nn.Embedding, searchable="channels")
def embedding(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, nn.Embedding)
    count, dim = layer.weight.shape
    if layer.max_norm is not None:
        call.cost("embedding", count, dim)
        return call.fixed_unit("max_norm mixes the channels of a row")
    written = call.writes("weight", 1, dim)
    call.cost("embedding", count, written, weight="weight")
    call.attribute("embedding_dim", written)
    return call.spread(written, -1)
