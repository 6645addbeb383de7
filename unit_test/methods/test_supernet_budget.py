"""Limits for searches between branches: what is decided keeps to them."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import pytest
import torch
from supernet_toys import SUPER_TOYS

import nasopt
from nasopt import Budget, PITSuperNet, SuperNet
from nasopt.cost import network_cost
from nasopt.search.settle import Cost, settle_branches

SAMPLED = {"paths": "sampled", "hard_softmax": True}
METHODS: dict[str, Any] = {
    "supernet": SuperNet,
    "supernet_sampled": lambda *a, **k: SuperNet(*a, **SAMPLED, **k),
    "shared": lambda *a, **k: PITSuperNet(*a, branch_masks="shared", **k),
    "independent": lambda *a, **k: PITSuperNet(*a, branch_masks="independent", **SAMPLED, **k),
}


@functools.cache
def costs(method: str, name: str) -> dict[str, dict[str, float]]:
    """Of the smallest network and the seed, by metric."""
    toy = SUPER_TOYS[name]
    return METHODS[method](toy.seed(), toy.shape).search_space()["cost"]


def limited(method: str, name: str, share: float) -> tuple[Any, dict[str, float]]:
    """A search model whose limits lie at a share of the way from the smallest network to the seed."""
    toy = SUPER_TOYS[name]
    limits = {m: c["smallest"] + share * (c["seed"] - c["smallest"]) for m, c in costs(method, name).items()}
    return METHODS[method](toy.seed(), toy.shape, regularizer=Budget(limits)), limits


@pytest.mark.parametrize(
    ("method", "name", "share"),
    [
        ("supernet", "Plain", 0.01),
        ("supernet_sampled", "Nested", 0.3),
        ("shared", "Nested", 0.02),
        ("independent", "Plain", 0.2),
        ("independent", "Temporal", 0.02),
    ],
)
def test_settled_decisions_are_inside(method: str, name: str, share: float) -> None:
    toy = SUPER_TOYS[name]
    model, limits = limited(method, name, share)
    with torch.no_grad():
        for parameter in model.arch_parameters():
            parameter.copy_(torch.rand_like(parameter) + 0.45)
        # First branches are the likeliest ones.
        model.choice_logits.copy_(-torch.arange(len(model.choice_logits)))
    assert any(model.get_cost(metric, discrete=True) > limit for metric, limit in limits.items())
    model.settle_budget()
    network = model.arch_export()
    for metric, limit in limits.items():
        cost = network_cost(network, metric, toy.shape)
        assert cost <= limit
        assert model.get_cost(metric, discrete=True) == cost
        assert float(model.eval().get_cost(metric).detach()) == cost
    x = toy.batch()
    assert torch.allclose(model.eval()(x), network.eval()(x), atol=1e-9)
    again = nasopt.restore(toy.seed(), json.loads(json.dumps(model.arch_structure())))
    again.load_state_dict(network.state_dict())


@pytest.mark.parametrize("method", ["supernet", "independent"])
def test_a_search_ends_inside_its_limits(method: str) -> None:
    toy = SUPER_TOYS["Plain"]
    torch.manual_seed(0)
    model, limits = limited(method, "Plain", 0.4)
    optimizer = torch.optim.Adam(model.train().param_groups(lr=1e-3, arch_lr=5e-2))
    for _ in range(100):
        optimizer.zero_grad()
        (model(toy.batch()).square().mean() + model.get_regularization_loss()).backward()
        optimizer.step()
    assert bool(model.budget.reached)
    network = model.arch_export()
    assert all(network_cost(network, metric, toy.shape) <= limit for metric, limit in limits.items())


def test_decisions_inside_the_limits_stay_as_they_are() -> None:
    model, _ = limited("shared", "Plain", 0.9)
    with torch.no_grad():
        model.choice_logits.copy_(torch.arange(len(model.choice_logits)))
    before = model.arch_structure()
    assert all(model.get_cost(metric, discrete=True) <= limit for metric, limit in model.budget.limits)
    model.settle_budget()
    assert model.arch_structure() == before


def settled(start: Any, scores: dict[str, list[float]], prices: dict[str, list[float]], limit: float) -> Any:
    """Branches inside of a limit on the sum of their prices."""

    def use(found: Any) -> Cost:
        return Cost(sum(prices[choice][branch] for choice, kept in found.items() for branch in kept) / limit)

    return settle_branches(start, scores, use)


def test_the_exchange_that_loses_least_comes_first() -> None:
    prices = {"a": [10.0, 4.0, 1.0], "b": [10.0, 9.0, 2.0]}
    scores = {"a": [-0.1, -0.5, -4.0], "b": [-0.1, -0.2, -5.0]}
    start = {"a": (0,), "b": (0,)}
    # From 20: b to 1 saves 1 for 0.1, a to 1 saves 6 for 0.4, which is more for its price.
    assert settled(start, scores, prices, 15) == {"a": (1,), "b": (0,)}
    assert settled(start, scores, prices, 13) == {"a": (1,), "b": (1,)}
    assert settled(start, scores, prices, 3) == {"a": (2,), "b": (2,)}
    assert settled(start, scores, prices, 2) == {"a": (2,), "b": (2,)}
    assert settled(start, scores, prices, 20) == start


def test_one_of_several_kept_branches_is_exchanged() -> None:
    prices = {"a": [0.0, 9.0, 5.0, 3.0, 1.0]}
    scores = {"a": [-math.inf, -0.1, -0.2, -0.3, -9.0]}
    # From 14: 9 to 3 saves 6 for 0.2, and 9 to 1 saves 8 for 8.9; the free branch is never kept.
    assert settled({"a": (1, 2)}, scores, prices, 10) == {"a": (2, 3)}
    assert settled({"a": (1, 2)}, scores, prices, 4) == {"a": (3, 4)}
    assert settled({"a": (1, 2)}, scores, prices, 1) == {"a": (3, 4)}


def test_exchanges_that_turn_out_to_be_needless_are_taken_back() -> None:
    prices = {"a": [10.0, 9.0], "b": [10.0, 1.0]}
    scores = {"a": [0.0, -0.01], "b": [0.0, -5.0]}
    assert settled({"a": (0,), "b": (0,)}, scores, prices, 12) == {"a": (0,), "b": (1,)}
