"""Peak memory of a network with cells: true for every decision, the mean over draws, differentiable, usable as a limit."""

from __future__ import annotations

import copy
import itertools
import random
from typing import Any

import pytest
import torch
from nasb_seeds import SHAPE, Plain, PreActivation, Residual
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt import NASB, Budget
from nasopt.cost import MEMORY, PeakMetric, network_calls, network_cost
from nasopt.errors import ConfigError
from nasopt.methods.nasb.cell import Edge

SMOOTH = PeakMetric("smooth", sharpness=8.0)  # sees all steps, not the highest alone
FEW = ("zero", "avg_pool_3x3", "identity", "conv_3x3")


class PreBlock(nn.Module):
    """Norm and activation before each convolution, and before the one in the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.down = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(F.relu(self.norm(x))))) + self.down(x)


class Woven(nn.Module):
    """Cells on the network's input, on a padded tensor, on a part of one; side by side; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.first = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1))
        self.padded = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 8, 3, 2, 1))
        self.part = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1))
        self.block = PreBlock(4, 6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        first = self.first(x)
        y = F.relu(self.stem(x))
        padded = self.padded(F.pad(y, (1, 1, 1, 1)))
        part = self.part(y.chunk(2, 1)[0])
        return F.relu(self.block(y)), y + part, padded.sigmoid(), first


def chain() -> nn.Module:
    """A cell of four nodes, of which the last three have one shape."""
    layers = (nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1))
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1))


CASES: dict[str, tuple[Any, list[str], dict[str, Any]]] = {
    "down-sampling, three branches": (Residual, ["stage2.0"], {"branches": 3, "candidates": FEW}),
    "plain": (Plain, ["features"], {"keep": 2}),
    "preactivation, two branches, regrouped": (
        PreActivation,
        ["stage"],
        {"branches": 2, "nodes": 3, "candidates": FEW},
    ),
    "woven": (Woven, ["first", "padded", "part", "block"], {"candidates": FEW}),
}


def decisions(model: NASB) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """What is kept can be one to three operations per node; what probabilities tend to is one per edge, or none."""
    columns = range(1, model.alpha.shape[1])
    pairs = [(row, column) for row in range(model.layout.rows) for column in columns]
    nodes = [[pair for pair in pairs if pair[0] in node.rows] for node in model.layout.nodes]
    per_node = [pair for node in nodes for pair in random.sample(node, random.randint(1, 3))]
    per_edge = [(row, random.choice(columns)) for row in range(model.layout.rows) if random.random() < 0.6]
    return sorted(per_node), per_edge


@pytest.mark.parametrize("case", CASES)
def test_the_peak_of_every_decision_is_that_of_the_network(case: str) -> None:
    make, cells, settings = CASES[case]
    random.seed(0)
    model = NASB(make(), SHAPE, cells=cells, **settings)
    memory = model._memory()
    kept, drawn = decisions(model)
    calls = network_calls(model._with_operations(kept), input_example=model.example.arguments)
    assert float(memory.smallest(MEMORY)) <= calls.total(MEMORY) == float(memory.exact(MEMORY, kept))
    assert float(memory.exact(SMOOTH, kept)) == pytest.approx(calls.total(SMOOTH), rel=1e-12)
    use = model.layout.mask(drawn)
    use[:, 0] = 1 - use.sum(1)
    assert memory.expected(MEMORY, use) == memory.exact(MEMORY, drawn)


class Elements(PeakMetric):
    """In place of the peak all that it is taken of: the steps of the backbones come first."""

    def peak(self, elements: Tensor) -> Tensor:
        return elements


def small() -> NASB:
    torch.manual_seed(0)
    model = NASB(chain(), SHAPE, cells=["1"], candidates=("zero", "max_pool_3x3", "conv_3x3"))
    with torch.no_grad():
        model.alpha.normal_()
    return model


def test_expected_elements_are_the_mean_over_all_draws() -> None:
    model = small()
    memory, p = model._memory(), model.probabilities().detach()
    steps = len(network_calls(model._with_operations(()), SHAPE).memory.steps)
    mean, peak, lowest = torch.zeros(steps, dtype=torch.float64), 0.0, float("inf")
    for columns in itertools.product(range(3), repeat=len(p)):
        drawn = list(enumerate(columns))
        chance = float(torch.stack([p[pair] for pair in drawn]).prod())
        pairs = [pair for pair in drawn if pair[1]]
        elements = memory.exact(Elements(), pairs)
        mean += chance * elements[:steps]
        peak += chance * float(elements.max())
        if model.layout.kept(model.layout.mask(pairs)) == pairs:
            lowest = min(lowest, float(elements.max()))
    torch.testing.assert_close(memory.expected(Elements(), p)[:steps], mean, rtol=1e-12, atol=0)
    assert float(memory.expected(MEMORY, p)) == pytest.approx(peak, rel=0.1)
    assert float(memory.smallest(MEMORY)) == lowest


def test_gradients_are_those_of_finite_differences() -> None:
    model = small().double()
    memory = model._memory()
    assert torch.autograd.gradcheck(lambda alpha: memory.expected(MEMORY, alpha.softmax(1)), (model.alpha,))
    for metric in (MEMORY, SMOOTH):
        model.zero_grad()
        model.get_cost(metric).backward()
        gradient = model.alpha.grad
        assert gradient is not None
        assert bool(gradient.isfinite().all())
        assert bool((gradient.abs().sum(1) > 0).any())


def test_as_regularizer_and_as_limit() -> None:
    seed = chain()
    settings: dict[str, Any] = {"cells": ["1"], "candidates": FEW}
    model = NASB(seed, SHAPE, regularizer={"memory": 1e-3, "ops": 1e-6}, **settings)
    with torch.no_grad():
        for target in (2, 3):  # the input is needed to the end
            model.alpha[model.layout.place("1", Edge(0, 0, target), "conv_3x3")] = 0.5
    optimizer = torch.optim.Adam(model.arch_parameters(), lr=0.05)
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    before = float(model.get_cost("memory").detach())
    costs = [model.search_space()["cost"]["memory"]]
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    for _ in range(40):
        optimizer.zero_grad()
        model.get_regularization_loss().backward()
        optimizer.step()
    costs.append(model.search_space()["cost"]["memory"])
    found = network_cost(model.arch_export(), "memory", SHAPE)
    assert costs[1]["smallest"] <= costs[1]["now"] == model.arch_summary()["cost"]["memory"]["now"] == found
    assert costs[1]["seed"] == network_cost(seed, "memory", SHAPE)
    assert found < costs[0]["now"]
    assert float(model.get_cost("memory").detach()) < before
    twin = copy.deepcopy(model)
    assert twin.get_cost("memory", discrete=True) == found
    assert torch.equal(twin.get_cost("memory"), model.get_cost("memory"))
    twin.load_state_dict(state)
    assert float(twin.get_cost("memory").detach()) == before

    with pytest.raises(ConfigError, match="limit on memory is 1,000 B, but the smallest"):
        NASB(seed, SHAPE, regularizer=Budget(memory=1000), **settings)
    limited = NASB(seed, SHAPE, regularizer=Budget(memory=costs[0]["smallest"], ops=3e4), **settings)
    penalty = limited.get_regularization_loss()
    penalty.backward()
    assert float(penalty.detach()) > 0
    assert limited.alpha.grad is not None
    assert bool(limited.alpha.grad.isfinite().all())
