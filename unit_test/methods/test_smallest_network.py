"""The smallest network of a search space with branches is the smallest of all, by enumeration."""

from __future__ import annotations

import itertools

import pytest
import torch
from supernet_toys import SUPER_TOYS, SuperToy

from nasopt import SuperNet

SMALL = [pytest.param(toy, id=name) for name, toy in SUPER_TOYS.items() if not toy.is_network]


@pytest.mark.parametrize("toy", SMALL)
def test_the_smallest_network_is_the_smallest(toy: SuperToy) -> None:
    model = SuperNet(toy.seed(), toy.shape, regularizer="memory")
    sizes = [len(choice["branches"]) for choice in model.arch_summary()["choices"].values()]
    found = {"macs": [], "memory": []}
    for chosen in itertools.product(*map(range, sizes)):
        one_hot = [torch.eye(size)[index] for size, index in zip(sizes, chosen)]
        with torch.no_grad():
            model.choice_logits.copy_(torch.cat(one_hot))
        for metric, costs in found.items():
            costs.append(model.get_cost(metric, discrete=True))
    smallest = {metric: cost["smallest"] for metric, cost in model.search_space()["cost"].items()}
    assert all(smallest[metric] == min(costs) for metric, costs in found.items())
