"""Layers that stay whole, with fixed channels and a price: recurrent layers, and attention that cannot be opened."""

from __future__ import annotations

from typing import Any

from torch import nn

from nasopt.graph.call import Call
from nasopt.graph.registry import layer_rule

_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


@layer_rule(nn.LSTM, nn.GRU, nn.RNN, searchable="fixes its channels")
def recurrent(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, nn.RNNBase)
    x = call.args[0]
    rows = max(x[..., 0].numel() // call.batch, 1)
    directions = 2 if layer.bidirectional else 1
    gates = _GATES[layer.mode]
    state = layer.proj_size or layer.hidden_size
    for depth in range(layer.num_layers):
        read = layer.input_size if depth == 0 else state * directions
        for direction in range(directions):
            name = f"_l{depth}" + ("_reverse" if direction else "")
            written = gates * layer.hidden_size
            call.cost("linear", read, written, positions=rows, bias=layer.bias, weight=f"weight_ih{name}")
            call.cost("linear", state, written, positions=rows, bias=layer.bias, weight=f"weight_hh{name}")
            if layer.proj_size:
                call.cost("linear", layer.hidden_size, state, positions=rows, weight=f"weight_hr{name}")
    return call.fixed_unit("a recurrent layer stays whole")


@layer_rule(nn.MultiheadAttention, searchable="channels of all heads, of what it reads and of its projection")
def multihead_attention(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, nn.MultiheadAttention)
    query, key = call.argument(0, "query"), call.argument(1, "key")
    rows = max(query[..., 0].numel() // call.batch, 1)
    key_rows = max(key[..., 0].numel() // call.batch, 1)
    width = layer.embed_dim
    bias = layer.in_proj_bias is not None
    projections = (("q", width, rows), ("k", layer.kdim or width, key_rows), ("v", layer.vdim or width, key_rows))
    for name, read, count in projections:
        call.cost("linear", read, width, positions=count, bias=bias, weight=f"{name}_proj_weight")
    call.cost("matmul", width, key_rows, positions=rows)
    call.cost("matmul", key_rows, width, positions=rows)
    call.cost("linear", width, width, positions=rows, bias=layer.out_proj.bias is not None, weight="out_proj.weight")
    return call.fixed_unit("attention stays whole")
