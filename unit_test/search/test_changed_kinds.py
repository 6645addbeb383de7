"""Convolutions that are of another kind once few channels are left are priced as what is exported."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt import PIT, Budget
from nasopt.cost import network_calls

# Kind of convolution -> (inputs, outputs, groups).
CONVOLUTIONS = {"depthwise": (8, 8, 8), "multiplier": (8, 16, 8), "groups": (8, 12, 4), "two_groups": (8, 4, 2)}
METRICS = ["size", "macs", "latency:cortex_m4", "latency:gap8", "flash:tflm", "memory:tinyengine", "memory:xcube7"]


class Net(nn.Module):
    """A grouped convolution between dense ones, called as a layer or as a function."""

    def __init__(self, kind: str, as_function: bool = False) -> None:
        super().__init__()
        inputs, outputs, groups = CONVOLUTIONS[kind]
        self.as_function = as_function
        self.first = nn.Conv2d(3, inputs, 3, padding=1)
        self.grouped = nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)
        self.norm = nn.BatchNorm2d(outputs)
        self.last = nn.Conv2d(outputs, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        layer = self.grouped
        if self.as_function:
            x = F.conv2d(x, layer.weight, layer.bias, padding=1, groups=layer.groups)
        else:
            x = layer(x)
        return self.head(self.last(self.norm(x).relu()).mean((2, 3)))


def keep_first(model: Any, count: int) -> None:
    """Keep the first channels of every group."""
    with torch.no_grad():
        model.alpha.zero_()
        for group in range(len(model.analysis.searchable)):
            model.alpha[torch.nonzero(model.analysis.channel_group == group).reshape(-1)[:count]] = 1


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_costs_are_those_of_the_export(kind: str) -> None:
    """With one channel per group, exact and expected costs are those of the exported kind, and have a slope."""
    for as_function, count in ((False, 1), (True, 1), (False, 2)):
        model: Any = PIT(Net(kind, as_function), (3, 4, 4), regularizer="latency:cortex_m4", verify=False)
        keep_first(model, count)
        calls = network_calls(model.arch_export(), (3, 4, 4))
        for metric in METRICS:
            wanted = calls.total(metric)
            expected = model.get_cost(metric)
            assert model.get_cost(metric, discrete=True) == wanted, (metric, count)
            assert expected.item() == pytest.approx(wanted), (metric, count)
            (slope,) = torch.autograd.grad(expected, model.alpha)
            assert bool(torch.isfinite(slope).all())
            # What a further channel costs is a matter of the seed's kind: it never becomes a gain.
            assert metric.startswith("memory") or bool((slope >= 0).all())


def test_settled_budget_holds_for_the_export() -> None:
    """A limit that only networks of one channel per group reach is kept by what is exported."""
    for kind in ("depthwise", "groups"):
        seed = Net(kind)
        model: Any = PIT(seed, (3, 4, 4), regularizer="latency:gap8", verify=False)
        limit = 1.05 * model.search_space()["cost"]["latency:gap8"]["smallest"]
        model = PIT(seed, (3, 4, 4), regularizer=Budget(**{"latency:gap8": limit}), verify=False)
        model.settle_budget()
        assert network_calls(model.arch_export(), (3, 4, 4)).total("latency:gap8") <= limit
