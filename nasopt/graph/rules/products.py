"""Products of activations: matrix products and attention fix their channels, and have a price."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nasopt.graph.call import Call
from nasopt.graph.facts import flatten
from nasopt.graph.registry import function_rule

_REASON = "a product of activations sums over its channels"


@function_rule(
    torch.matmul,
    torch.mm,
    torch.bmm,
    torch.mv,
    operator.matmul,
    "matmul",
    "mm",
    "bmm",
    "mv",
    "__matmul__",
    "__rmatmul__",
)
def matrix_product(call: Call) -> Any:
    left = call.args[0]
    _price(call, left.shape[-1])
    return call.fixed_unit(_REASON)


@function_rule(torch.baddbmm, torch.addmm, "baddbmm", "addmm")
def added_matrix_product(call: Call) -> Any:
    _price(call, call.args[1].shape[-1])
    return call.fixed_unit(_REASON)


@function_rule(torch.einsum)
def einsum(call: Call) -> Any:
    equation, *operands = call.args
    tensors = [x for x in flatten(operands) if isinstance(x, Tensor)]
    sizes: dict[str, int] = {}
    terms = str(equation).replace(" ", "").split("->")[0].split(",")
    if "." in str(equation) or len(tensors) != 2:
        call.unpriced()
        return call.fixed_unit(_REASON)
    for term, tensor in zip(terms, tensors):
        sizes.update(zip(term, tensor.shape))
    _price(call, math.prod(sizes.values()) // max(call.value.numel(), 1))
    return call.fixed_unit(_REASON)


@function_rule(F.scaled_dot_product_attention)
def attention(call: Call) -> Any:
    query, key = call.argument(0, "query"), call.argument(1, "key")
    value_size = call.value.shape[-1]
    rows = query.shape[:-1].numel() // call.batch
    call.cost("matmul", query.shape[-1], key.shape[-2], positions=rows)
    call.cost("matmul", key.shape[-2], value_size, positions=rows)
    return call.fixed_unit(_REASON)


def _price(call: Call, summed: int) -> None:
    columns = call.value.shape[-1] if call.value.dim() else 1
    rows = max(call.value.numel() // columns // call.batch, 1)
    call.cost("matmul", summed, columns, positions=rows)
