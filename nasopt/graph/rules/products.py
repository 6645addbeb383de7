"""Matrix products: of a weight and an activation (a linear layer), and of two activations, as in attention.

All of them are sums over index letters, as `torch.einsum` has them. Channels along a letter that is summed are masked where
they are read; those along a letter of the result pass on.
"""

from __future__ import annotations

import math
import operator
import string
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nasopt.graph.call import Call, no_labels
from nasopt.graph.cost_terms import Count
from nasopt.graph.facts import Weight
from nasopt.graph.integer_roles import width_read
from nasopt.graph.registry import function_rule
from nasopt.graph.rewrite import attention_scale
from nasopt.graph.rules.convolution import price_layer
from nasopt.graph.rules.elementwise import meet
from nasopt.graph.weights import find_weight

_REASON = "a product of activations whose channels lie along different dimensions"


@dataclass(frozen=True)
class _Operand:
    """One factor: where it is given, its labels, and one letter per dimension."""

    position: int
    name: str
    labels: Tensor
    letters: str


@function_rule(
    torch.matmul,
    torch.linalg.matmul,
    torch.mm,
    torch.bmm,
    torch.mv,
    operator.matmul,
    "matmul",
    "mm",
    "bmm",
    "mv",
    "__matmul__",
)
def matrix_product(call: Call) -> Any:
    return _matrices(call, 0, 1)


@function_rule("__rmatmul__")
def reversed_product(call: Call) -> Any:
    return _matrices(call, 1, 0)


@function_rule(torch.addmm, torch.baddbmm, "addmm", "baddbmm")
def added_product(call: Call) -> Any:
    added, bias = call.argument(0, "input"), find_weight(call, 0, "input")
    is_vector = bias is not None and added.dim() == 1 and added.numel() == call.value.shape[-1]
    product = _matrices(call, 1, 2, bias if is_vector else None)
    if bias is not None and is_vector:
        # A bias is cut with the columns that it is added to.
        call.slices(bias, 0, call.labels.line(product, -1))
        return product
    return meet(call, [added, product], call.value.shape)


def _matrices(call: Call, left: int, right: int, bias: Weight | None = None) -> Any:
    """`left @ right`, of any ranks."""
    places = [_place(call, position) for position in (left, right)]
    x, y = (call.argument_node(*place).meta["value"] for place in places)
    free = iter(string.ascii_letters)
    batch = [next(free) for _ in range(max(x.dim(), y.dim(), 2) - 2)]
    row, summed, column = next(free), next(free), next(free)

    def letters(value: Tensor, own: str) -> str:
        shared = batch[len(batch) - max(value.dim() - 2, 0) :]
        sizes = call.value.shape[len(batch) - len(shared) : len(batch)]
        # What is spread over the other's matrices has a letter of its own.
        return "".join(a if n == m else next(free) for a, n, m in zip(shared, value.shape, sizes)) + own

    terms = [
        letters(x, row + summed if x.dim() > 1 else summed),
        letters(y, summed + column if y.dim() > 1 else summed),
    ]
    output = "".join(batch) + (row if x.dim() > 1 else "") + (column if y.dim() > 1 else "")
    return _contract(call, places, terms, output, bias)


def _place(call: Call, position: int) -> tuple[int, str]:
    names = (("input",), ("other", "mat2", "vec", "mat1", "batch1"), ("mat2", "batch2"))[position]
    return position, next((name for name in names if name in call.node.kwargs), names[0])


@function_rule(torch.einsum)
def einsum(call: Call) -> Any:
    given = call.node.args[1:] if len(call.node.args) != 2 or not isinstance(call.node.args[1], (tuple, list)) else None
    equation = str(call.node.args[0]).replace(" ", "")
    terms, _, output = equation.partition("->")
    letters = terms.split(",")
    if given is None or len(given) != 2 or "." in equation or "->" not in equation or len(letters) != 2:
        call.unpriced()
        return call.fixed_unit("its equation is not followed")
    return _contract(call, [(1, ""), (2, "")], letters, output)


@function_rule(torch.tensordot, torch.inner, "inner")
def tensor_product(call: Call) -> Any:
    """`tensordot` sums over `dims`, a number of dimensions or two lists of them; `inner` over the last ones."""
    places = [
        (0, "a" if call.node.target is torch.tensordot else "input"),
        (1, "b" if call.node.target is torch.tensordot else "other"),
    ]
    first, second = (call.argument_node(*place).meta["value"].dim() for place in places)
    dims = call.argument(2, "dims", 2) if call.node.target is torch.tensordot else ((first - 1,), (second - 1,))
    if isinstance(dims, int):
        dims = tuple(range(first - dims, first)), tuple(range(dims))
    terms = [list(string.ascii_letters[:first]), list(string.ascii_letters[first : first + second])]
    summed = [[one] if isinstance(one, int) else list(one) for one in dims]
    for left, right in zip(*summed):
        terms[1][right] = terms[0][left]
    output = "".join(a for a in terms[0] + terms[1] if (a in terms[0]) != (a in terms[1]))
    return _contract(call, places, ["".join(term) for term in terms], output)


def _contract(
    call: Call, places: list[tuple[int, str]], terms: list[str], output: str, bias: Weight | None = None
) -> Any:
    """The sum over all letters that the output has not."""
    if call.of_parameters:
        return call.fixed_unit("it is computed from parameters alone")
    nodes = [call.argument_node(*place) for place in places]
    sizes = {a: n for node, term in zip(nodes, terms) for a, n in zip(term, node.meta["value"].shape)}
    shared = [a for a in terms[0] if a in terms[1] and a not in output]
    if any(len(set(term)) != len(term) for term in terms):
        _price(call, [a for a in sizes if a not in output], sizes, output, {})
        return call.fixed_unit("its equation is not followed")
    weights = [call.is_weight(*place) for place in places]
    if weights[0] != weights[1]:
        layer = _linear(call, places, terms, output, weights.index(True), sizes, bias)
        if layer is not None:
            return layer
    operands = []
    for place, term, is_weight in zip(places, terms, weights):
        labels = call.argument(*place)
        if is_weight:
            call.fix(labels, "it is multiplied as a whole")
            labels = no_labels(labels)
        operands.append(_Operand(*place, labels, term))
    lines = _meet(call, operands, output)
    _price(call, shared, sizes, output, lines or {})
    if lines is None:
        return call.fixed_unit(_REASON)
    passing = [a for a in lines if a in output]
    return call.spread(lines[passing[0]], output.index(passing[0])) if passing else no_labels(call.value)


def _meet(call: Call, operands: list[_Operand], output: str) -> dict[str, Tensor] | None:
    """Channels along every letter that has some; None where a result would belong to several, or a factor has none there."""
    known = call.labels
    varying = [{one.letters[dim] for dim in known.varying(one.labels)} for one in operands]
    if len({letter for letters in varying for letter in letters if letter in output}) > 1:
        return None
    lines: dict[str, Tensor] = {}
    for letter in sorted(set.union(*varying)):
        have = [one for one in operands if letter in one.letters]
        if not all(letter in letters for one, letters in zip(operands, varying) if one in have):
            return None
        along = [known.line(one.labels, one.letters.index(letter)) for one in have]
        for line in along[1:]:
            call.unite(along[0], line)
        lines[letter] = along[0]
        if letter not in output:
            call.reads_argument(have[0].position, have[0].name, have[0].letters.index(letter), along[0])
    return lines


def _linear(
    call: Call,
    places: list[tuple[int, str]],
    terms: list[str],
    output: str,
    at: int,
    sizes: dict[str, int],
    bias: Weight | None,
) -> Any:
    """A weight times an activation as a layer; None where the channels of the activation do not meet the weight."""
    x, weight = call.argument(*places[1 - at]), find_weight(call, *places[at])
    into, out = ([a for a in terms[at] if (a in output) == is_out] for is_out in (False, True))
    given = terms[1 - at]
    if weight is None or not into or len(out) > 1 or not set(into) <= set(given) or set(out) & set(given):
        return None
    varying = {given[dim] for dim in call.labels.varying(x)} or {into[0]}
    if len(varying) > 1 or not varying <= set(into):
        return None
    (channel,) = varying
    read = call.labels.line(x, given.index(channel))
    written = call.writes(weight, terms[at].index(out[0]), sizes[out[0]]) if out else None
    call.reads(weight, terms[at].index(channel), read)
    taps = math.prod(sizes[a] for a in into if a != channel)
    positions = max(call.value.numel() // (sizes[out[0]] if out else 1) // call.batch, 1)
    count: Count = 1 if written is None else written
    price_layer(
        call, "linear", read.repeat_interleave(taps), count, positions=positions, bias=bias or False, weight=weight
    )
    return no_labels(call.value) if written is None else call.spread(written, output.index(out[0]))


def _price(call: Call, summed: list[str], sizes: dict[str, int], output: str, lines: dict[str, Tensor]) -> None:
    """The work for one sample: a product of the sizes of all letters. Where nothing is summed, it is elementwise."""
    if not summed:
        return
    soft = next((a for a in summed if a in lines), None)
    others = math.prod(sizes[a] for a in summed if a != soft)
    products: Count = others if soft is None else lines[soft].repeat_interleave(others)
    column = next((a for a in output if a in lines), output[-1:])
    count = sizes.get(column, 1)
    positions = math.prod(sizes[a] for a in output) // count
    # Of two factors that are activations on grids, their widths.
    read = [width_read(call.facts, one) for one in call.node.all_input_nodes]
    first, second = read if len(read) == 2 else (None, None)
    rows = max(positions // call.batch, 1)

    call.cost("matmul", products, lines.get(column, count), positions=rows, activation_bits=first, weight_bits=second)


@function_rule(F.scaled_dot_product_attention, rewrite=attention_scale)
def attention(call: Call) -> Any:
    query, key, value = (call.argument(i, name) for i, name in enumerate(("query", "key", "value")))
    mask = call.argument(3, "attn_mask")
    rows, labels = query.shape[:-1].numel() // call.batch, call.labels
    varying = [labels.varying(x) for x in (query, key, value)]
    # Channels of a head pass; heads, tokens and masks do not.
    is_followed = varying[0] == varying[1] and all(dims in ([], [query.dim() - 1]) for dims in varying)
    if not is_followed or (isinstance(mask, Tensor) and labels.varying(mask)):
        call.cost("matmul", query.shape[-1], key.shape[-2], positions=rows)
        call.cost("matmul", key.shape[-2], value.shape[-1], positions=rows)
        return call.fixed_unit(_REASON)
    depth: Count = query.shape[-1]
    if varying[0]:
        depth = labels.line(query, -1)
        call.unite(depth, labels.line(key, -1))
        call.reads_argument(0, "query", -1, depth)
    line = labels.line(value, -1)
    call.cost("matmul", depth, key.shape[-2], positions=rows)
    call.cost("matmul", key.shape[-2], line if varying[2] else value.shape[-1], positions=rows)
    return call.spread(line, -1)
