"""Bits by sensitivity and exact assignment."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from nasopt import Budget, MixedPrecision, Precision, allocate_bits
from nasopt.errors import ConfigError
from nasopt.search.allocate import assign


def test_the_assignment_is_the_best_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        losses = torch.rand(4, 3, generator=generator).tolist()
        costs = (torch.randint(1, 30, (4, 3), generator=generator) / 2).tolist()
        limit = 25.0
        fitting = [
            (sum(losses[i][o] for i, o in enumerate(one)), one)
            for one in itertools.product(range(3), repeat=4)
            if sum(costs[i][o] for i, o in enumerate(one)) <= limit
        ]
        found = assign(losses, costs, limit)
        if not fitting:
            assert found is None
            continue
        assert found is not None
        assert sum(costs[i][o] for i, o in enumerate(found)) <= limit
        assert sum(losses[i][o] for i, o in enumerate(found)) == pytest.approx(min(fitting)[0])


def seed() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3),
        nn.ReLU(),
        nn.Conv2d(6, 6, 1),
        nn.Flatten(),
        nn.Linear(96, 3),
    ]
    return nn.Sequential(*layers)


def model() -> MixedPrecision:
    made = MixedPrecision(seed(), (3, 8, 8), precision=Precision(weights=(2, 4, 8)))
    made.calibrate([torch.randn(4, 3, 8, 8)])
    return made


BATCHES = [(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))]


@pytest.mark.parametrize("sensitivity", ["loss", "fisher", "cosine"])
def test_widths_inside_of_the_limit(sensitivity: str) -> None:
    search = model()
    before = {name: tensor.clone() for name, tensor in search.state_dict().items()}
    widths = allocate_bits(search, BATCHES, Budget(average_bits=6), sensitivity=sensitivity)
    assert all(torch.equal(tensor, before[name]) for name, tensor in search.state_dict().items())
    assert (widths["0"], widths["6"]) == (8, 8)
    chosen = MixedPrecision(seed(), (3, 8, 8), precision=Precision(weights=widths, first_last=None))
    assert chosen.get_cost("average_bits", discrete=True) <= 6
    everything = allocate_bits(search, BATCHES, Budget(average_bits=8), sensitivity=sensitivity)
    assert everything == {"0": 8, "2": 8, "4": 8, "6": 8}


def test_what_is_refused() -> None:
    search = model()
    with pytest.raises(ConfigError, match=r"one limit on size_bits, flash or average_bits, got macs"):
        allocate_bits(search, BATCHES, Budget(macs=100))
    with pytest.raises(ConfigError, match=r"needs batches"):
        allocate_bits(search, [], Budget(average_bits=4))
    with pytest.raises(ConfigError, match=r"the narrowest widths cost"):
        allocate_bits(search, BATCHES, Budget(flash=10))
    with pytest.raises(ConfigError, match=r"sensitivity must be 'loss' or .*got 'hessian'"):
        allocate_bits(search, BATCHES, Budget(average_bits=4), sensitivity="hessian")
    fixed = MixedPrecision(nn.Sequential(nn.Linear(3, 2)), (3,), precision=8)
    with pytest.raises(ConfigError, match=r"no widths of weights to choose"):
        allocate_bits(fixed, BATCHES, Budget(average_bits=4))
