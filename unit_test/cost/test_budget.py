"""Budgets: searches end inside their limits and use them; reading changes nothing; limits that cannot be."""

import copy
import math

import pytest
import torch
from torch import nn

from nasopt import PIT, Budget
from nasopt.cost import SIZE, get_target, network_cost
from nasopt.errors import BudgetWarning, ConfigError, NoEffectWarning

torch.set_num_threads(1)
SHAPE = (3, 8, 8)


def small_net() -> nn.Module:
    """Two convolutions and a classifier."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 4),
    )


def search(model: PIT, steps: int) -> None:
    x, y = torch.randn(8, *SHAPE), torch.randint(0, 4, (8,))
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-3, arch_lr=3e-2))
    for _ in range(steps):
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(x), y) + model.get_regularization_loss()).backward()
        optimizer.step()


@pytest.mark.parametrize(("metric", "share"), [("size", 0.3), ("macs", 0.6), ("latency_ms:gap8", 0.3), ("memory", 0.6)])
def test_search_ends_inside_and_uses_its_limit(metric, share):
    seed = small_net()
    limit = share * network_cost(seed, metric, SHAPE)
    model = PIT(seed, SHAPE, regularizer=Budget({metric: limit}))
    search(model, 120)
    cost = network_cost(model.arch_export(), metric, SHAPE)
    assert cost == pytest.approx(model.get_cost(metric, discrete=True), rel=1e-12)
    # One channel more of the first layer would be 64 of 1,024 B.
    assert 0.9 * limit <= cost <= limit


def test_several_limits_hold_together():
    seed = small_net()
    limits = {name: 0.5 * network_cost(seed, name, SHAPE) for name in ("size", "macs", "memory")}
    model = PIT(seed, SHAPE, regularizer=Budget(limits))
    search(model, 120)
    used = [network_cost(model.arch_export(), name, SHAPE) / limit for name, limit in limits.items()]
    assert 0.9 <= max(used) <= 1


def test_reading_changes_nothing_and_training_does():
    model = PIT(small_net(), SHAPE, regularizer=Budget(size=2000))
    before = copy.deepcopy(model.state_dict())
    model.get_regularization_loss()
    model.get_cost("size")
    model.arch_summary()
    str(model)
    with pytest.warns(BudgetWarning, match="has not come inside its budget yet: size is"):
        model.arch_export()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.get_regularization_loss().backward()
    assert model.budget.multipliers.item() > 0
    assert model.budget.strengths.item() > before["budget.strengths"].item()


def test_decisions_after_settling_fit_at_once():
    model = PIT(small_net(), SHAPE, regularizer=Budget(size=2000))
    model.settle_budget()
    found = model.arch_export()
    assert 1800 <= network_cost(found, "size", SHAPE) <= 2000
    x = torch.randn(2, *SHAPE)
    assert torch.allclose(model.eval()(x), found.eval()(x), atol=1e-6)


def test_state_survives_round_trips():
    model = PIT(small_net(), SHAPE, regularizer=Budget(size=2000, macs=50_000))
    search(model, 120)
    assert bool(model.budget.reached)
    twin = PIT(small_net(), SHAPE, regularizer=Budget(size=2000, macs=50_000))
    twin.load_state_dict(model.state_dict())
    for other in (twin, copy.deepcopy(model)):
        assert torch.equal(other.budget.multipliers, model.budget.multipliers)
        assert other.arch_structure() == model.arch_structure()
    assert not {"budget.multipliers"} & {name for name, _ in model.named_parameters()}
    fresh = PIT(small_net(), SHAPE, regularizer=Budget(size=2000))
    fresh.load_state_dict(small_net().state_dict())


def test_limits_by_keyword():
    budget = Budget(size=10, latency=("gap8", 3), energy=[("cortex_m4", 5.0), (get_target("gap9_ne16"), 2)])
    assert {metric.name: limit for metric, limit in budget.limits} == {
        "size": 10,
        "latency_ms:gap8": 3,
        "energy:cortex_m4": 5,
        "energy:gap9_ne16": 2,
    }


@pytest.mark.parametrize("limit", [-1, 0, math.nan, math.inf, "40k", True, None])
def test_limits_that_are_none(limit):
    with pytest.raises(ConfigError, match=r"the limit on size must be a finite number > 0 \[weights\], got"):
        Budget(size=limit)


def test_other_bad_budgets():
    with pytest.raises(ConfigError, match=r"unknown metric 'sise'.*Did you mean 'size'"):
        Budget(sise=10)
    with pytest.raises(ConfigError, match="without a limit"):
        Budget()
    with pytest.raises(ConfigError, match="latency is a pair"):
        Budget(latency=["cortex_m4"])
    with pytest.raises(ConfigError, match="size is limited twice"):
        Budget({SIZE: 3}, size=4)
    # One channel and one tap each: 3 + 1, 1 + 1, and 16 positions x 4 classes + 4 biases.
    with pytest.raises(ConfigError, match="smallest network of this search space costs 74 weights"):
        PIT(small_net(), SHAPE, regularizer=Budget(size=50))
    with pytest.raises(ConfigError, match="relative=True with a Budget"):
        PIT(small_net(), SHAPE, regularizer=Budget(size=2000), relative=True)
    with pytest.warns(NoEffectWarning, match="inside every limit already"):
        PIT(small_net(), SHAPE, regularizer=Budget(size=10**6))
    with pytest.raises(ConfigError, match="has no budget"):
        PIT(small_net(), SHAPE).settle_budget()
