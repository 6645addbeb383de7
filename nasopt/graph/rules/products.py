"""Matrix products: of a weight and an activation (a linear layer), and of two activations, as in attention.

Channels that a product sums over are masked where they are read; those of its rows and columns pass on.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nasopt.graph.call import Call, no_labels
from nasopt.graph.facts import Count, flatten
from nasopt.graph.registry import function_rule
from nasopt.graph.rewrite import attention_scale
from nasopt.graph.rules.convolution import price_layer
from nasopt.graph.rules.elementwise import meet
from nasopt.graph.weights import find_weight

_REASON = "a product of activations with channels along several dimensions"
# Place and name of an argument.
Place = tuple[int, str]


@function_rule(torch.matmul, torch.mm, torch.bmm, torch.mv, operator.matmul, "matmul", "mm", "bmm", "mv", "__matmul__")
def matrix_product(call: Call) -> Any:
    name = "vec" if str(getattr(call.node.target, "__name__", call.node.target)) == "mv" else "other"
    if name not in call.node.kwargs and len(call.node.args) < 2:
        name = "mat2"
    return _multiply(call, (0, "input"), (1, name))


@function_rule("__rmatmul__")
def reversed_product(call: Call) -> Any:
    return _multiply(call, (1, "other"), (0, "input"))


@function_rule(torch.addmm, torch.baddbmm, "addmm", "baddbmm")
def added_product(call: Call) -> Any:
    names = ("mat1", "mat2") if "addmm" in _name(call) and "baddbmm" not in _name(call) else ("batch1", "batch2")
    added = call.argument(0, "input")
    bias = find_weight(call, 0, "input")
    # A bias is cut with the columns; anything else meets the result.
    if bias is not None and added.dim() == 1 and not call.is_weight(1, names[0]) and call.is_weight(2, names[1]):
        product = _multiply(call, (1, names[0]), (2, names[1]))
        if call.labels.varies(product, -1):
            call.slices(bias, 0, call.labels.line(product, -1))
            return product
        call.fix(added, _REASON)
        return product
    product = _multiply(call, (1, names[0]), (2, names[1]))
    return meet(call, [added, product], call.value.shape)


def _name(call: Call) -> str:
    return str(getattr(call.node.target, "__name__", call.node.target))


def _multiply(call: Call, left: Place, right: Place) -> Any:
    """`left @ right`, of any ranks."""
    if call.is_weight(*left) != call.is_weight(*right):
        made = _linear(call, right if call.is_weight(*left) else left, left if call.is_weight(*left) else right, left)
        if made is not None:
            return made
    x, y = call.argument(*left), call.argument(*right)
    rows = x.unsqueeze(0) if x.dim() == 1 else x
    columns = y.unsqueeze(1) if y.dim() == 1 else y
    summed = rows.shape[-1]
    if not _sum_over(call, left, x, -1, call.labels.line(columns, -2)):
        return call.fixed_unit(_REASON)
    if call.labels.varies(columns, -2) and not call.labels.varies(rows, -1):
        return call.fixed_unit(_REASON)
    result = _spread(call, rows, columns)
    if result is None:
        return call.fixed_unit(_REASON)
    if y.dim() == 1:
        result = result.squeeze(-1)
    if x.dim() == 1:
        result = result.squeeze(-2 if y.dim() > 1 else -1)
    _price(call, call.labels.line(rows, -1) if call.labels.varies(rows, -1) else summed, result)
    return result


def _sum_over(call: Call, place: Place, x: Tensor, dim: int, partner: Tensor) -> bool:
    """Unite the channels that a product sums over, and mask them on one side; False where they cannot be cut."""
    line = call.labels.line(x, dim)
    if call.labels.varies(x, dim) or call.labels.varies(partner, 0):
        if len(line) != len(partner):
            return False
        call.unite(line, partner)
        call.reads_argument(*place, dim, line)
    return True


def _spread(call: Call, rows: Tensor, columns: Tensor) -> Tensor | None:
    """Labels of `(..., i, k) @ (..., k, j)`: those of the rows, columns and leading dimensions; None where they mix."""
    labels = call.labels
    left = rows.narrow(-1, 0, 1)
    right = columns.narrow(-2, 0, 1)
    if labels.varies(rows, -1):
        left, right = no_labels(left), no_labels(right)
    rank = max(left.dim(), right.dim())
    shape = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    result = None
    for part in (left, right):
        part = part.reshape((1,) * (rank - part.dim()) + tuple(part.shape))
        part = part.expand((*shape, rows.shape[-2], columns.shape[-1]))
        if not labels.varying(part):
            continue
        if result is None:
            result = part
            continue
        if labels.varying(result) != labels.varying(part):
            return None
        call.unite(result, part)
    whole = torch.Size((*shape, rows.shape[-2], columns.shape[-1]))
    return no_labels(torch.empty(whole, device="meta")) if result is None else result


def _linear(call: Call, given: Place, weight_place: Place, left: Place) -> Any:
    """A weight times an activation as a linear layer; None where the channels of the activation do not meet the weight."""
    x, weight = call.argument(*given), find_weight(call, *weight_place)
    from_right = given == left
    summed = -1 if from_right or x.dim() == 1 else -2
    others = [dim for dim in call.labels.varying(x) if dim != x.dim() + summed]
    value = call.argument_node(*weight_place).meta["value"]
    if others or weight is None or value.dim() != 2 or call.value.dim() != x.dim():
        return None
    into, out = (0, 1) if from_right else (1, 0)
    read = call.labels.line(x, summed)
    written = call.writes(weight, out, value.shape[out])
    call.reads(weight, into, read)
    positions = max(call.value.numel() // value.shape[out] // call.batch, 1)
    price_layer(call, "linear", read, written, positions=positions, bias=False, weight=weight)
    return call.spread(written, summed)


def _price(call: Call, summed: Count, result: Tensor) -> None:
    """The work of a product whose result has these labels, for one sample."""
    size = call.value.numel()
    dims = call.labels.varying(result)
    count = call.value.shape[dims[0] if dims else -1] if call.value.dim() else 1
    columns = call.labels.line(result, dims[0]) if dims else count
    call.cost("matmul", summed, columns, positions=max(size // count // call.batch, 1))


@function_rule(torch.einsum)
def einsum(call: Call) -> Any:
    equation, *operands = call.args
    tensors = [x for x in flatten(operands) if isinstance(x, Tensor)]
    terms = str(equation).replace(" ", "").split("->")[0].split(",")
    if "." in str(equation) or len(tensors) != 2:
        call.unpriced()
        return call.fixed_unit("its equation is not followed")
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, tensors):
        sizes.update(zip(term, tensor.shape))
    summed = math.prod(sizes.values()) // max(call.value.numel(), 1)
    columns = call.value.shape[-1] if call.value.dim() else 1
    call.cost("matmul", summed, columns, positions=max(call.value.numel() // columns // call.batch, 1))
    return call.fixed_unit("its equation is not followed")


@function_rule(F.scaled_dot_product_attention, rewrite=attention_scale)
def attention(call: Call) -> Any:
    query, key, value = (call.argument(i, name) for i, name in enumerate(("query", "key", "value")))
    mask = call.argument(3, "attn_mask")
    rows = query.shape[:-1].numel() // call.batch
    labels = call.labels
    grouped = bool(call.argument(7, "enable_gqa", False)) or query.shape[:-2] != key.shape[:-2]
    along_tokens = any(labels.varies(x, -2) for x in (query, key, value))
    along_mask = isinstance(mask, Tensor) and bool(labels.varying(mask))
    heads = [x.narrow(-1, 0, 1).narrow(-2, 0, 1) for x in (query, key, value)]
    over_heads = any(labels.varying(x) for x in heads)
    if along_tokens or along_mask or over_heads or grouped:
        call.cost("matmul", query.shape[-1], key.shape[-2], positions=rows)
        call.cost("matmul", key.shape[-2], value.shape[-1], positions=rows)
        return call.fixed_unit(_REASON)
    _sum_over(call, (0, "query"), query, -1, labels.line(key, -1))
    depth: Count = labels.line(query, -1) if labels.varies(query, -1) else query.shape[-1]
    width: Count = labels.line(value, -1) if labels.varies(value, -1) else value.shape[-1]
    call.cost("matmul", depth, key.shape[-2], positions=rows)
    call.cost("matmul", key.shape[-2], width, positions=rows)
    return call.spread(labels.line(value, -1), -1)
