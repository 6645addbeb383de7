"""What do the parts of a cell cost? Layer shapes of any module, and sums over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from nasopt.cost import Metric
from nasopt.graph.analysis import Analysis, analyse, trace_model
from nasopt.graph.call import Count
from nasopt.graph.chain import NodeShape
from nasopt.graph.example import make_example
from nasopt.graph.layer_shape import LayerShape

# (what names the stored weights, the call): calls of one key share weights.
Priced = tuple[str, LayerShape]


def layer_shapes(analysis: Analysis) -> list[Priced]:
    """Every priced call of a network, with all its channels."""
    biased = {term.key for term in analysis.costs if term.bias}
    return [
        (
            term.key,
            LayerShape(
                kind=term.kind,
                in_channels=_number(term.in_channels),
                out_channels=_number(term.out_channels),
                kernel=term.kernel,
                positions=term.positions,
                output_size=term.output_size,
                stride=term.stride,
                groups=_number(term.groups),
                bias=int(term.key in biased),
                weight_bits=term.weight_bits,
                activation_bits=term.activation_bits,
            ),
        )
        for term in analysis.costs
    ]


def _number(count: Count) -> int:
    return count if isinstance(count, int) else len(count)


def module_shapes(module: nn.Module, shape: NodeShape) -> list[Priced]:
    """Every priced call of a module on an input of this shape (without batch)."""
    example = make_example(module, shape, None)
    return layer_shapes(analyse(trace_model(module, example), example))


def fresh_shapes(make: Callable[[], nn.Module | None], shape: NodeShape) -> list[Priced]:
    """As `module_shapes`, of a module that is made for this purpose, without memory for its weights."""
    with torch.device("meta"):
        module = make()
    return [] if module is None else module_shapes(module, shape)


def price(calls: Iterable[Priced], metric: Metric) -> float:
    """Sum of a metric over calls; storage is counted once per key."""
    if metric.per_call:
        return sum(float(metric.cost(shape)) for _, shape in calls)
    return sum(float(metric.cost(shape)) for shape in dict(reversed(list(calls))).values())


def price_each(parts: Sequence[Sequence[Priced]], metric: Metric) -> list[float]:
    """The price of every part on its own; parts of equal content are priced once."""
    known: dict[Any, float] = {}
    for part in parts:
        if tuple(part) not in known:
            known[tuple(part)] = price(part, metric)
    return [known[tuple(part)] for part in parts]
