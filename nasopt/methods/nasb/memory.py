"""How much memory do the activations of a network need whose cells are under search? Its peak: expected, exact, least.

The network with the backbones alone is walked once; into its steps go the operations on the edges. An operation holds
what its layers make, and keeps its source alive from where the backbone would release it: until it runs, or, across a
change of shape, until some operation has aligned the source; what was aligned lives from the first operation that needs
it to the last one. All this is products over edges of "no operation here that ...".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nasopt.cost import PeakMetric
from nasopt.graph.buffers import ActivationMemory
from nasopt.methods.nasb.layout import Layout
from nasopt.methods.nasb.memory_odds import make_odds
from nasopt.methods.nasb.memory_plan import make_plan


@dataclass(frozen=True)
class _Live:
    """Mean live elements while some operations may run.

    Attributes:
        backbone: at the steps of the backbone, shape `(steps,)`.
        operations: at the moments of every operation, given that it runs, shape `(operations, moments)`; -inf: none.
        aligning: the same, while it aligns its source.
        aligns: the probability that it does so, given that it runs, shape `(operations,)`.
    """

    backbone: Tensor
    operations: Tensor
    aligning: Tensor
    aligns: Tensor


class CellMemory:
    """Peak memory of a network with cells, as a function of which operations run.

    Args:
        layout: edges of all cells.
        backbone: buffers and steps of the network without any operation on an edge.
    """

    def __init__(self, layout: Layout, backbone: ActivationMemory) -> None:
        self._plan = plan = make_plan(layout, backbone)
        self._nodes = layout.nodes
        self._number = {pair: i for i, pair in enumerate(zip(plan.row.tolist(), plan.column.tolist()))}

    def expected(self, metric: PeakMetric, use: Tensor) -> Tensor:
        """Peak of the mean live elements where every edge holds one operation, drawn with the probabilities `use`.

        Every step of the backbone counts with its mean over all draws. Every edge counts with the mean over its
        operations of their highest moment, where the backbone's highest step stands for less and for no operation.

        Args:
            metric: what the elements cost.
            use: shape `(rows, candidates)`, float64.

        Returns:
            A scalar on the CPU, differentiable in `use`.
        """
        plan, use = self._plan, use.cpu()  # many small steps on small tensors
        chances = use[plan.row, plan.column]
        live = self._live(torch.arange(len(chances)), chances, plan.edge, torch.arange(len(plan.step)))
        floor = live.backbone.max()
        highest = live.operations.amax(1)
        highest = highest + live.aligns * (live.aligning.amax(1) - highest).relu()
        above = torch.zeros(len(plan.step), dtype=use.dtype)
        above = above.index_add(0, plan.edge, chances * (highest - floor).relu())
        return metric.peak(torch.cat([live.backbone, floor + above]))

    def exact(self, metric: PeakMetric, pairs: Sequence[tuple[int, int]]) -> Tensor:
        """Peak of the network in which the operations at these (row, column) run and no others."""
        running = torch.tensor(sorted(self._number[pair] for pair in pairs), dtype=torch.long)
        chances = torch.ones(len(running), dtype=torch.float64)
        live = self._live(running, chances, torch.arange(len(running)), self._plan.edge[running])
        steps = torch.cat([live.backbone, live.operations.flatten(), live.aligning[live.aligns == 1].flatten()])
        return metric.peak(steps[steps.isfinite()])

    def smallest(self, metric: PeakMetric) -> Tensor:
        """A bound that no network with as many operations per node as are kept is below.

        Of every node those operations are taken that need least, each as if it were alone in the network.
        """
        plan = self._plan
        edge, aligned = plan.edge, plan.is_aligned[:, None]
        node, way = plan.node[edge], plan.way[edge]
        size, aligned_size = plan.size[node, None], plan.aligned_size[way, None]
        # From its release on the source is live, or, behind the first edge of its way, what was aligned of it.
        steps = torch.arange(len(plan.backbone))
        first = torch.stack([plan.step[plan.way == one].min() for one in plan.way])[edge, None]
        held = torch.where(aligned & (steps > first), torch.minimum(size, aligned_size), size)
        waits = plan.released.t()[node] * (steps <= plan.step[edge, None])
        waiting = (waits * (plan.backbone + held)).amax(1)
        read = torch.where(aligned, aligned_size, size * plan.released_there[edge, node, None])
        runs = (plan.across[edge, None] + plan.moments.own + plan.moments.reads * read).amax(1)
        needs = dict(zip(self._number, torch.maximum(waiting, runs).tolist()))
        least = float(plan.backbone.max())
        for into in self._nodes:
            each = sorted(need for (row, _), need in needs.items() if row in into.rows)
            least = max(least, each[into.keep - 1])
        return metric.peak(torch.tensor([least], dtype=torch.float64))

    def _live(self, operations: Tensor, chances: Tensor, slot: Tensor, edge: Tensor) -> _Live:
        """Mean live elements where every slot holds one operation at most, and slots are independent.

        Args:
            operations: numbers of those that may run, ascending, shape `(n,)`.
            chances: their probabilities, shape `(n,)`.
            slot: of every operation, ascending, shape `(n,)`.
            edge: of every slot, shape `(slots,)`.
        """
        plan, aligned, behind = self._plan, self._plan.is_aligned[operations], slot + 1
        none = torch.zeros(len(edge), dtype=chances.dtype)
        direct_odds = none.index_add(0, slot, torch.where(aligned, 0, chances))
        odds = make_odds(plan, edge, direct_odds, none.index_add(0, slot, torch.where(aligned, chances, 0)))
        needed, held = plan.size[:, None] * odds.needed, plan.aligned_size[:, None] * odds.held
        at = torch.searchsorted(plan.step[edge], torch.arange(len(plan.backbone)))
        backbone = plan.backbone + (plan.released * needed.t()[at]).sum(1) + held.sum(0)[at]

        # Given that an operation runs, the state of its own node and way is another one than on average.
        number = plan.edge[operations]
        node, way = plan.node[number], plan.way[number]
        released = plan.released_there[number, node]
        extra = (plan.released_there[edge] * needed.t()[1:]).sum(1) + held.sum(0)[1:]
        rest = plan.across[number] + extra[slot] - released * needed[node, behind] - held[way, behind]
        fresh = torch.where(aligned, 0, odds.fresh[way, slot])
        other_ways = torch.where(plan.ways[node] == way[:, None], 1, odds.unread[plan.ways[node], behind[:, None]])
        later = 1 - other_ways.prod(1) * odds.unread_if(way, slot, fresh)
        stays = (1 - fresh) * (1 - odds.no_aligned[way, behind])
        reads, reads_aligned = plan.moments.reads[operations], aligned[:, None]
        source, result = (plan.size[node] * released)[:, None], plan.aligned_size[way][:, None]
        around = rest[:, None] + source * _either(torch.where(reads_aligned, 0, reads), later)
        around = around + result * _either(torch.where(reads_aligned, reads, 0), stays)
        aligning = rest[:, None] + source * _either(plan.aligning.reads[way], later) + plan.aligning.own[way]
        aligns = torch.where(aligned, odds.fresh[way, slot], 0)
        return _Live(backbone, around + plan.moments.own[operations], aligning, aligns)


def _either(certain: Tensor, chance: Tensor) -> Tensor:
    """The probability of what is certain (1), or else has a chance: `(n, m), (n,) -> (n, m)`."""
    return certain + (1 - certain) * chance[:, None]
