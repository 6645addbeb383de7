"""Which operations run when, over which nodes, and what do they hold? Everything that peak memory needs, as tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from nasopt.graph.buffers import ActivationMemory
from nasopt.methods.nasb.backbone_memory import BackboneMemory, NodeMemory
from nasopt.methods.nasb.candidates import ZERO, takes_source
from nasopt.methods.nasb.cell import Edge, NASBCell
from nasopt.methods.nasb.layout import Layout
from nasopt.methods.nasb.moments import Moment, layer_moments, operation_moments


@dataclass(frozen=True)
class MomentTable:
    """Moments of several parts.

    Attributes:
        own: elements of what a part has made itself, -inf where it has no moment any more, shape `(parts, moments)`.
        reads: 1 where its input must exist, else 0, same shape.
    """

    own: Tensor
    reads: Tensor


@dataclass(frozen=True)
class MemoryPlan:
    """Steps of the backbones, and what operations on edges add to them. Elements are float64.

    Edges and operations are numbered in the order in which they run: right behind the backbone's step to their node. A
    *way* leads from a node to all later nodes of one shape; the operations on it share what is aligned.

    Attributes:
        backbone: live elements at every step while the backbones run alone, shape `(steps,)`.
        size: elements of the buffer of every node, shape `(nodes,)`.
        ways: numbers of the ways that leave every node, filled up with the number of ways, shape `(nodes, most)`.
        released: 1 at the steps at which the backbones alone do not hold a node, else 0, shape `(steps, nodes)`.
        step: of the backbone, before every edge, shape `(edges,)`.
        across: elements that the backbones alone hold while an edge runs, shape `(edges,)`.
        released_there: 1 where these do not hold a node, shape `(edges, nodes)`.
        node: source of every edge, shape `(edges,)`.
        way: of every edge, shape `(edges,)`.
        aligned_size: elements of what is aligned on a way, 0 where nothing is, shape `(ways,)`.
        aligning: moments of the layers that align, of every way.
        edge: of every operation, shape `(operations,)`.
        row, column: of every operation in the architecture parameters, shape `(operations,)`.
        is_aligned: whether an operation takes an aligned source, shape `(operations,)`.
        moments: of every operation.
    """

    backbone: Tensor
    size: Tensor
    ways: Tensor
    released: Tensor
    step: Tensor
    across: Tensor
    released_there: Tensor
    node: Tensor
    way: Tensor
    aligned_size: Tensor
    aligning: MomentTable
    edge: Tensor
    row: Tensor
    column: Tensor
    is_aligned: Tensor
    moments: MomentTable


def make_plan(layout: Layout, backbone: ActivationMemory) -> MemoryPlan:
    """The plan of a network with cells.

    Args:
        layout: edges of all cells.
        backbone: buffers and steps of the network without any operation on an edge.
    """
    alone = BackboneMemory(backbone)
    nodes: dict[Any, NodeMemory] = {}  # in the order of their numbers, as ways
    ways: dict[Any, tuple[int, tuple[Moment, ...]]] = {}
    edges: list[tuple[int, ...]] = []
    operations: list[tuple[int, ...]] = []
    moments: list[tuple[Moment, ...]] = []
    for step, row, name, cell, edge in _in_order(layout, alone):
        shape, wanted = cell.shapes[edge.source], cell.shapes[edge.target]
        node = (name, 0 if cell.is_shared(edge.source) else edge.branch, edge.source)
        if node not in nodes:
            nodes[node] = alone.node(name, cell, *node[1:])
        writable, way = nodes[node].writable, (*node, wanted)
        if way not in ways:
            layers = cell.aligning_layers(edge.source, edge.target)
            ways[way] = (prod(wanted), layer_moments(layers, shape, writable)) if layers else (0, ())
        for column, operation in enumerate(layout.settings.candidates):
            if operation != ZERO:
                is_aligned = shape != wanted and not takes_source(operation)
                operations.append((len(edges), row, column, is_aligned))
                moments.append(operation_moments(operation, shape, wanted, writable))
        edges.append((step, alone.behind(step), list(nodes).index(node), list(ways).index(way)))
    of_edges, of_operations = torch.tensor(edges).t(), torch.tensor(operations).t()
    leaving = [[number for number, way in enumerate(ways) if way[:3] == node] for node in nodes]
    most = max(map(len, leaving))
    steps = torch.arange(len(alone.live))
    return MemoryPlan(
        backbone=alone.live,
        size=_vector(node.size for node in nodes.values()),
        ways=torch.tensor([[*numbers, *[len(ways)] * (most - len(numbers))] for numbers in leaving]),
        released=(steps[:, None] >= _vector(node.released_at for node in nodes.values())).double(),
        step=of_edges[0],
        across=of_edges[1].double(),
        released_there=(of_edges[0][:, None] >= _vector(node.released_behind for node in nodes.values())).double(),
        node=of_edges[2],
        way=of_edges[3],
        aligned_size=_vector(size for size, _ in ways.values()),
        aligning=_table([parts for _, parts in ways.values()]),
        edge=of_operations[0],
        row=of_operations[1],
        column=of_operations[2],
        is_aligned=of_operations[3].bool(),
        moments=_table(moments),
    )


def _in_order(layout: Layout, alone: BackboneMemory) -> list[tuple[int, int, str, NASBCell, Edge]]:
    """(step of the backbone before it, row, cell's name, cell, edge) of every edge, in the order in which they run."""
    found = [
        (alone.last_step(name, edge.branch, edge.target - 1), first + i, name, cell, edge)
        for first, (name, cell) in zip(layout.first_row, layout.cells)
        for i, edge in enumerate(cell.edges)
    ]
    return sorted(found, key=lambda edge: edge[:2])


def _vector(values: Iterable[Any]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def _table(parts: Sequence[Sequence[Moment]]) -> MomentTable:
    own = torch.full((len(parts), max(1, *map(len, parts))), -torch.inf, dtype=torch.float64)
    reads = torch.zeros_like(own)
    for i, part in enumerate(parts):
        own[i, : len(part)] = _vector(moment.own for moment in part)
        reads[i, : len(part)] = _vector(moment.reads for moment in part)
    return MomentTable(own, reads)
