"""Layers that stay whole, with fixed channels and a price: attention that cannot be opened."""

from __future__ import annotations

from typing import Any

from torch import nn

from nasopt.graph.call import Call
from nasopt.graph.registry import layer_rule


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
