"""Run probabilities: how probable it is that a call counts, inside the branches of choices whose probabilities are soft.

The probability of a union of regions is exact for independent choices, and a polynomial that is written down as a small
circuit of sums and products: `1 - prod(1 - p)` over parts without a common choice, `sum p` over branches of one choice, and
otherwise a sum over the branches of one choice, given which the rest is simpler. Where several branches of a choice may be kept,
sums count at most 1: exact once they are decided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nasopt.graph.branches.regions import ALWAYS, Event, Region, any_of, both
from nasopt.graph.cost_terms import CostTerm

# A term, and the position of the probability with which it counts.
Counted = tuple[CostTerm, int]


class RunProbabilities:
    """Probabilities with which terms count, for given probabilities of all branches.

    Args:
        choices: key of every group of branches -> (position of the first branch of its choice in a row of all branches, number
            of branches in the group).
        several: keys of groups of which several branches may be kept.
    """

    def __init__(self, choices: Mapping[str, tuple[int, int]], several: Collection[str] = ()) -> None:
        self._circuit = _Circuit(choices, several)
        self._wanted: dict[int, int] = {}
        self._on_device: dict[tuple[torch.device, torch.dtype], tuple[list[_Layer], Tensor]] = {}

    def split(self, term: CostTerm, runs_in: Iterable[Region], biased: Event) -> list[Counted]:
        """A term where it has a bias, and where it has none."""
        runs = any_of(runs_in)
        with_bias = both(runs, biased)
        circuit = self._circuit
        parts = [([ALWAYS], circuit.event(with_bias))] if with_bias else []
        if runs != with_bias:
            parts.append(([], circuit.sum({circuit.event(runs): 1, circuit.event(with_bias): -1})))
        return [(replace(term, bias_regions=list(bias)), self._position(gate)) for bias, gate in parts]

    def _position(self, gate: int) -> int:
        return self._wanted.setdefault(gate, len(self._wanted))

    def __call__(self, branches: Tensor) -> Tensor:
        """The probabilities, by position, from those of all branches, `(branches,)`; differentiable."""
        key = (branches.device, branches.dtype)
        if key not in self._on_device:
            layers, places = self._circuit.layers()
            wanted = torch.tensor([places[gate] for gate in self._wanted], dtype=torch.int64)
            moved = [one.to(branches) for one in layers]
            self._on_device[key] = (moved, wanted.to(branches.device))
        layers, wanted = self._on_device[key]
        values = torch.nn.functional.pad(branches, (0, 1), value=1.0)
        for layer in layers:
            inputs = values[layer.index]
            new = inputs.prod(1) if layer.factors is None else (inputs * layer.factors).sum(1)
            if layer.capped is not None:
                new = torch.where(layer.capped, new.clamp(0, 1), new)
            values = torch.cat([values, new])
        return values.index_select(0, wanted)


@dataclass(frozen=True)
class _Layer:
    """Products, or sums with factors, of values that are known: one per row of `index`; some sums are `capped` to [0, 1]."""

    index: Tensor
    factors: Tensor | None
    capped: Tensor | None

    def to(self, like: Tensor) -> _Layer:
        """The same for values of that device and type."""
        factors = None if self.factors is None else self.factors.to(like)
        return _Layer(self.index.to(like.device), factors, None if self.capped is None else self.capped.to(like.device))


class _Circuit:
    """Sums and products of branch probabilities, each written once.

    Gates are numbers: first every branch, then the constant 1, then what is computed. Products have odd levels and sums even
    ones, so that a level is evaluated at once.
    """

    def __init__(self, choices: Mapping[str, tuple[int, int]], several: Collection[str]) -> None:
        self._several = frozenset(several)
        self._first = {choice: first for choice, (first, _) in choices.items()}
        self._one = sum(count for _, count in choices.values())
        self._level = [0] * (self._one + 1)
        self._products: dict[tuple[int, ...], int] = {}
        self._sums: dict[tuple[bool, tuple[tuple[int, int], ...]], int] = {}
        self._terms: dict[int, tuple[tuple[int, int], ...]] = {}
        self._events: dict[Event, int] = {}

    def product(self, gates: Iterable[int]) -> int:
        """The gate of a product."""
        key = tuple(sorted(gate for gate in gates if gate != self._one))
        if len(key) <= 1:
            return key[0] if key else self._one
        return self._add(self._products, key, key, odd=True)

    def sum(self, factors: Mapping[int, int], capped: bool = False) -> int:
        """The gate of a sum: gate -> factor; `capped`: of one that is brought to [0, 1]."""
        flat: Counter[int] = Counter()
        for gate, factor in factors.items():
            for inner, times in self._terms.get(gate, ((gate, 1),)):
                flat[inner] += factor * times
        key = tuple(sorted((gate, factor) for gate, factor in flat.items() if factor))
        if len(key) == 1 and key[0][1] == 1:
            return key[0][0]
        found = self._add(self._sums, (capped, key), [gate for gate, _ in key], odd=False)
        if not capped:
            self._terms[found] = key
        return found

    def _add(self, known: dict[Any, int], key: Any, inputs: Sequence[int], odd: bool) -> int:
        if key not in known:
            known[key] = len(self._level)
            level = max((self._level[gate] for gate in inputs), default=0) + 1
            self._level.append(level + (level % 2 != odd))
        return known[key]

    def event(self, event: Event) -> int:
        """The gate of an event's probability."""
        if event not in self._events:
            self._events[event] = self._expand(event)
        return self._events[event]

    def _expand(self, event: Event) -> int:
        if not event:
            return self.sum({})
        common = frozenset.intersection(*event)
        if common:
            rest = any_of(region - common for region in event)
            return self.product([*map(self._branch, common), *([] if frozenset() in rest else [self.event(rest)])])
        if frozenset() in event:
            return self._one
        parts = _independent(event)
        if len(parts) > 1:
            missed = [self.sum({self._one: 1, self.event(part): -1}) for part in parts]
            return self.sum({self._one: 1, self.product(missed): -1})
        often = Counter(choice for region in event for choice, _ in region)
        choice = max(sorted(often), key=often.__getitem__)
        free = [region for region in event if choice not in dict(region)]
        total: Counter[int] = Counter()
        others = Counter({self._one: 1})
        for literal in sorted({one for region in event for one in region if one[0] == choice}):
            given = any_of([*free, *(region - {literal} for region in event if literal in region)])
            total[self.product([self._branch(literal), self.event(given)])] += 1
            others[self._branch(literal)] -= 1
        if free:
            total[self.product([self.sum(others, choice in self._several), self.event(any_of(free))])] += 1
        return self.sum(total, choice in self._several)

    def _branch(self, literal: tuple[str, int]) -> int:
        return self._first[literal[0]] + literal[1]

    def layers(self) -> tuple[list[_Layer], dict[int, int]]:
        """What to compute, level by level; and where every gate is found then."""
        inputs: dict[int, tuple[tuple[int, int], ...]] = {gate: key for (_, key), gate in self._sums.items()}
        capped = {gate for (is_capped, _), gate in self._sums.items() if is_capped}
        inputs |= {gate: tuple((one, 1) for one in key) for key, gate in self._products.items()}
        places = {gate: gate for gate in range(self._one + 1)}
        layers = []
        for level in sorted(set(self._level) - {0}):
            gates = [gate for gate, own in enumerate(self._level) if own == level]
            width = max(1, *(len(inputs[gate]) for gate in gates))
            # The constant 1 fills rows up: times nothing in sums.
            rows = [[*inputs[gate], *[(self._one, 0)] * (width - len(inputs[gate]))] for gate in gates]
            index = torch.tensor([[places[one] for one, _ in row] for row in rows])
            factors = torch.tensor([[factor for _, factor in row] for row in rows], dtype=torch.float64)
            caps = torch.tensor([gate in capped for gate in gates])
            layers.append(_Layer(index, None if level % 2 else factors, caps if bool(caps.any()) else None))
            places |= {gate: len(places) + i for i, gate in enumerate(gates)}
        return layers, places


def _independent(event: Event) -> list[Event]:
    """Parts of an event that have no choice in common."""
    parts: list[tuple[set[str], list[frozenset[tuple[str, int]]]]] = []
    for region in sorted(event, key=sorted):
        choices, members = {choice for choice, _ in region}, [region]
        apart = []
        for other, inside in parts:
            if other & choices:
                choices, members = choices | other, members + inside
            else:
                apart.append((other, inside))
        parts = [*apart, (choices, members)]
    return [frozenset(members) for _, members in parts]
