"""What do the parts of a cell cost? Layer shapes of any module, and sums over them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from torch import nn

from nasopt.cost import Metric
from nasopt.graph.chain import NodeShape
from nasopt.graph.example import make_example
from nasopt.graph.groups import Analysis, analyse
from nasopt.graph.layer_shape import LayerShape
from nasopt.graph.stages import sequence_graph
from nasopt.methods.nasb.candidates import make_operation, takes_source

# (what names the stored weights, the call): calls of one key share weights.
Priced = tuple[str, LayerShape]


def layer_shapes(analysis: Analysis) -> list[Priced]:
    """Every priced call of a network, with all its channels."""
    return [(term.key, term.layer_shape()) for term in analysis.deployed_costs()]


def module_shapes(layers: Iterable[nn.Module], shape: NodeShape) -> list[Priced]:
    """Every priced call of layers that run one after the other, on an input of this shape (without batch)."""
    network = sequence_graph(layers)
    return layer_shapes(analyse(network, make_example(network, shape, None)))


@lru_cache(maxsize=4096)
def operation_shapes(name: str, source: NodeShape, target: NodeShape) -> tuple[Priced, ...]:
    """Every priced call of a candidate between nodes of these shapes, alignment left out."""
    with torch.device("meta"):
        layers = make_operation(name, source, target)
    if layers is None:
        return ()
    return tuple(module_shapes(layers.children(), source if takes_source(name) else target))


def price(calls: Iterable[Priced], metric: Metric) -> float:
    """Sum of a metric over calls; storage is counted once per key."""
    if metric.per_call:
        return sum(float(metric.cost(shape)) for _, shape in calls)
    return sum(float(metric.cost(shape)) for shape in dict(reversed(list(calls))).values())


def price_each(parts: Sequence[Sequence[Priced]], metric: Metric) -> list[float]:
    """The price of every part on its own; parts of equal content are priced once."""
    known: dict[tuple[Priced, ...], float] = {}
    for part in parts:
        if tuple(part) not in known:
            known[tuple(part)] = price(part, metric)
    return [known[tuple(part)] for part in parts]
