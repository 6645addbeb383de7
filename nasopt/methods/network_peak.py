"""How much memory do a network's activations need at once, while its channel counts and its branches are still soft?

Channel counts are exact: live elements of a step are linear in them. For branches the peak is the largest, over the choices,
of the expected peak of everything that always runs and of this choice:

    peak = max_c sum_i p(c, i) max(steps outside of branches, steps in branch i of c)

It is at most the expected peak of the network, equal to it for a single choice, exact once all choices are decided, and its
gradient goes to the choice that holds the peak. When a tensor dies may depend on the branches before and behind it: steps in
the likeliest branches, and outside of all, are taken from the network of the likeliest ones; those in another branch from a
network with that branch everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from nasopt.cost import PeakMetric
from nasopt.cost.memory import highest, live_sets, memory_graph
from nasopt.graph.analysis import Analysis
from nasopt.graph.buffers import activation_memory
from nasopt.graph.records import Count
from nasopt.graph.regions import ALWAYS, Region, happens


@dataclass(frozen=True)
class _Places:
    """Live elements of all steps that can be the peak, region by region: `matrix @ counts + offset`, split by `lengths`."""

    matrix: Tensor
    offset: Tensor
    regions: tuple[Region, ...]
    lengths: tuple[int, ...]


class NetworkPeak:
    """The peak of a network's live activations as a function of channel counts and probabilities of branches.

    Args:
        analysis: of the model.
        choices: path of every choice -> (position of its first branch, number of branches) in a row of all branches.
        row: a channel count as factors of the counts, and a constant, `(counts + 1,)`.
    """

    def __init__(
        self, analysis: Analysis, choices: Mapping[str, tuple[int, int]], row: Callable[[Count], Tensor]
    ) -> None:
        self._analysis = analysis
        self._choices = choices
        self._row = row
        where = analysis.propagation.regions
        self._regions = {node.name: region for node, region in where.items()}
        self._within: dict[Region, list[str]] = {}
        for node, region in where.items():
            if node.op == "call_module" and node.target in choices:
                inner = self._within.setdefault(region, [])
                inner += [str(node.target)] * (node.target not in inner)
        self._places = lru_cache(maxsize=64)(self._make_places)

    def __call__(self, metric: PeakMetric, counts: Tensor, branches: Tensor | None) -> Tensor:
        """The peak, a scalar; arguments as of `NetworkCost`."""
        falls = []
        if branches is not None and self._choices:
            sizes = [count for _, count in self._choices.values()]
            falls = [int(one.argmax()) for one in branches.detach().cpu().split(sizes)]
        places = self._places(tuple(falls), counts.device, counts.dtype)
        elements = torch.addmv(places.offset, places.matrix, counts).split(places.lengths)
        live = dict(zip(places.regions, elements))
        tops = [live[ALWAYS]]
        if branches is not None:
            branches = branches.to(counts.dtype)
            floor = live[ALWAYS].max()
            tops += [self._expected(live, branches, ALWAYS, c, floor)[None] for c in self._within.get(ALWAYS, ())]
        return metric.peak(torch.cat(tops))

    def _expected(
        self, live: Mapping[Region, Tensor], branches: Tensor, outer: Region, choice: str, floor: Tensor
    ) -> Tensor:
        """Expected highest number of live elements in the branches of a choice, where it is never below `floor`."""
        first, count = self._choices[choice]
        highest_ones = []
        for index in range(count):
            region = (*outer, (choice, index))
            top = torch.maximum(floor, live[region].max()) if region in live else floor
            inner = [self._expected(live, branches, region, c, top) for c in self._within.get(region, ())]
            highest_ones.append(torch.stack(inner).max() if inner else top)
        return branches[first : first + count] @ torch.stack(highest_ones)

    # --- places

    def _make_places(self, falls: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> _Places:
        decisions = dict(zip(self._choices, falls))
        rows = {**self._elsewhere, **self._rows(decisions)} if decisions else self._rows(decisions)
        stacked = torch.cat(list(rows.values())).to(device=device, dtype=dtype)
        lengths = tuple(len(one) for one in rows.values())
        return _Places(stacked[:, :-1].contiguous(), stacked[:, -1].contiguous(), tuple(rows), lengths)

    @cached_property
    def _elsewhere(self) -> dict[Region, Tensor]:
        """Rows of the steps in every branch, in a network with a branch of this index in every choice."""
        found: dict[Region, Tensor] = {}
        seen: set[Region] = {ALWAYS}
        for region in dict.fromkeys(self._regions.values()):
            if region in seen:
                continue
            index = region[-1][1]
            alike = {choice: min(index, count - 1) for choice, (_, count) in self._choices.items()} | dict(region)
            found |= {one: rows for one, rows in self._rows(alike).items() if one not in seen}
            seen.update(one for one in self._regions.values() if happens(one, alike))
        return found

    def _rows(self, decisions: Mapping[str, int]) -> dict[Region, Tensor]:
        """Live elements of the steps of a decided network by region, `(steps, counts + 1)`."""
        layout = activation_memory(self._analysis, decisions)
        graph = memory_graph(layout)
        # The inputs exist before the first step, even where there is none.
        sets: dict[Region, list[frozenset[object]]] = {ALWAYS: [frozenset(graph.given)]}
        for step, live in zip(graph.steps, live_sets(graph)):
            sets.setdefault(self._regions[str(step)], []).append(frozenset(live))
        sizes = {name: self._row(b.channels) * b.per_channel for name, b in layout.buffers.items()}
        return {
            region: torch.stack([torch.stack([sizes[str(name)] for name in one]).sum(0) for one in highest(several)])
            for region, several in sets.items()
        }
