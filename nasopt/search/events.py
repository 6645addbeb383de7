"""When does a term count, and how probable is that? Inside the branches of choices, whose probabilities are still soft."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nasopt.graph.branches.regions import ALWAYS, Event, Region, any_of, minus, product
from nasopt.graph.facts import CostTerm

# A term, and the index of the event in which it counts.
Counted = tuple[CostTerm, int]


class Events:
    """When terms count: every event is a sum of products of branch probabilities."""

    def __init__(self, choices: dict[str, tuple[int, int]]) -> None:
        self._choices = choices
        self._known: dict[frozenset[Any], int] = {}
        self._tensors: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def split(self, term: CostTerm, runs_in: Iterable[Region], biased: Event) -> list[Counted]:
        """A term where it has a bias, and where it has none."""
        runs = any_of(runs_in)
        with_bias = product(runs, biased)
        parts: tuple[tuple[list[Region], Event], ...] = (([ALWAYS], with_bias), ([], minus(runs, with_bias)))
        return [(replace(term, bias_regions=list(bias)), self._index(event)) for bias, event in parts if event]

    def _index(self, event: Event) -> int:
        return self._known.setdefault(frozenset(event.items()), len(self._known))

    def probabilities(self, branches: Tensor) -> Tensor:
        """Probability of every event, shape `(events,)`."""
        key = (branches.device, branches.dtype)
        if key not in self._tensors:
            index, factors = self._encode()
            self._tensors[key] = (index.to(branches.device), factors.to(branches))
        index, factors = self._tensors[key]
        return factors @ torch.nn.functional.pad(branches, (0, 1), value=1.0)[index].prod(1)

    def _encode(self) -> tuple[Tensor, Tensor]:
        """Every region as positions of its branches, padded with that of a constant 1; every event as factors of regions."""
        regions = list(dict.fromkeys(region for event in self._known for region, _ in event))
        one = sum(count for _, count in self._choices.values())
        depth = max(1, *(len(region) for region in regions)) if regions else 1
        index = torch.full((len(regions), depth), one)
        factors = torch.zeros(len(self._known), len(regions), dtype=torch.float64)
        for row, region in enumerate(regions):
            for column, (choice, branch) in enumerate(sorted(region)):
                index[row, column] = self._choices[choice][0] + branch
        for row, event in enumerate(self._known):
            for region, factor in event:
                factors[row, regions.index(region)] = factor
        return index, factors
