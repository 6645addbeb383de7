"""Probabilities of unions of regions, against the sum over all decisions."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from nasopt.graph.branches.regions import ALWAYS, Region, any_of, happens
from nasopt.graph.cost_terms import CostTerm
from nasopt.search.run_probabilities import RunProbabilities

SIZES = {"a": 2, "b": 3, "c": 2, "d": 2}


def layout(sizes: dict[str, int]) -> dict[str, tuple[int, int]]:
    starts = itertools.accumulate([0, *sizes.values()])
    return {choice: (start, count) for (choice, count), start in zip(sizes.items(), starts)}


def term() -> CostTerm:
    return CostTerm("", "", "", "conv", 1, 1, (), 1, (), (), 1)


def random_regions(generator: random.Random) -> list[Region]:
    def one() -> Region:
        choices = generator.sample(list(SIZES), generator.randint(1, 3))
        return tuple((choice, generator.randrange(SIZES[choice])) for choice in choices)

    return [one() for _ in range(generator.randint(1, 5))]


@pytest.mark.parametrize("seed", range(40))
def test_against_all_decisions(seed: int) -> None:
    generator = random.Random(seed)
    torch.manual_seed(seed)
    runs, biased = random_regions(generator), random_regions(generator)
    odds = {choice: torch.rand(count, dtype=torch.float64).softmax(0) for choice, count in SIZES.items()}
    found = RunProbabilities(layout(SIZES))
    parts = found.split(term(), runs, any_of(biased))
    values = found(torch.cat(list(odds.values())))
    wanted = {True: 0.0, False: 0.0}
    for indices in itertools.product(*(range(count) for count in SIZES.values())):
        decisions = {choice: (index,) for choice, index in zip(SIZES, indices)}
        if any(happens(region, decisions) for region in runs):
            has_bias = any(happens(region, decisions) for region in biased)
            wanted[has_bias] += math.prod(float(odds[choice][i]) for choice, (i,) in decisions.items())
    got = {True: 0.0, False: 0.0} | {part.bias: float(values[position]) for part, position in parts}
    assert got == pytest.approx(wanted, abs=1e-12)


def test_many_regions_take_few_terms() -> None:
    """1 - prod(1 - p) for what any of 200 choices reads: 2^200 terms by inclusion and exclusion."""
    sizes = {f"edge{i}": 3 for i in range(200)}
    found = RunProbabilities(layout(sizes))
    regions: list[Region] = [((choice, 1),) for choice in sizes] + [((choice, 2),) for choice in sizes]
    ((_, position),) = found.split(term(), regions, any_of(regions))
    branches = torch.full((600,), 0.005, dtype=torch.float64, requires_grad=True)
    runs = found(branches)[position]
    (gradient,) = torch.autograd.grad(runs, branches)
    assert runs.item() == pytest.approx(1 - 0.99**200)
    assert torch.allclose(gradient.view(200, 3)[:, 1:], torch.tensor(0.99**199, dtype=torch.float64))
    assert sum(one.index.numel() for one in found._circuit.layers()[0]) < 5 * 400


def test_a_bias_in_one_branch_splits_a_layer_in_two() -> None:
    found = RunProbabilities({"a": (0, 2)})
    (with_bias, first), (without, second) = found.split(term(), [ALWAYS], any_of([(("a", 1),)]))
    assert with_bias.bias
    assert not without.bias
    assert found(torch.tensor([0.25, 0.75]))[[first, second]].tolist() == [0.75, 0.25]
    assert found.split(term(), [], any_of([ALWAYS])) == []
