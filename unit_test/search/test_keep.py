"""Choices that keep several of their branches, or the best of several groups of branches."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nasopt
from nasopt import Budget, PITSuperNet, SuperNet, SuperNetModule
from nasopt.cost import network_cost
from nasopt.errors import ConfigError
from nasopt.nn import Zero

SHAPE = (2, 6, 6)


def unit(kernel: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, kernel, padding=kernel // 2), nn.BatchNorm2d(4), nn.ReLU())


class Several(nn.Module):
    """Two of four branches, behind a layer that only some of them read: `side` runs for the second and the third."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.stem, self.side = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        branches = [unit(3), nn.Identity(), unit(1), nn.Identity(), Zero(4, 6, 6)]
        names = ["a", "b", "c", "d", "none"]
        self.choice = SuperNetModule(branches, keep=2, takes=[0, 1, 1, 0, 0], names=names, **settings)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.choice(x, self.side(x))).relu().mean((2, 3)))


METRICS = ("size", "macs", "memory")
SETTINGS: dict[str, dict[str, Any]] = {"one group": {}, "two groups": {"groups": [3, 2]}}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("kept", [(0, 1), (0, 3), (1, 2), (1, 3), (2, 3)])
def test_what_is_kept(settings: dict[str, Any], kept: tuple[int, int]) -> None:
    seed = Several(**settings).eval()
    model = SuperNet(seed, SHAPE)
    with torch.no_grad():
        model.choice_logits.fill_(-3.0)
        model.choice_logits[list(kept)] = 3.0
        model.choice_logits[4] = 0.0 if settings else 9.0  # the largest of all, and never kept
    assert model.arch_structure()["choices"] == {"choice": list(kept)}
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        stem = seed.stem(x)
        total = sum(seed.choice.branches[i]((stem, seed.side(stem))[seed.choice.takes[i]]) for i in kept)  # type: ignore[index]
        wanted = seed.head((stem + total).relu().mean((2, 3)))
        torch.testing.assert_close(model(x), wanted)
        model.choice_logits.zero_()
        if not settings:  # of equal logits in groups of two sizes those of the smaller group are the likelier
            torch.testing.assert_close(model.eval()(x), seed(x))  # the first ones
        torch.testing.assert_close(model.train()(x), copy.deepcopy(seed).train()(x))  # means
        model.eval()
        model.choice_logits.fill_(-3.0)
        model.choice_logits[list(kept)] = 3.0
        model.choice_logits[4] = 0.0
    network = model.arch_export()
    assert ("side" in dict(network.named_modules())) == bool(set(kept) & {1, 2})
    for metric in METRICS:
        assert model.get_cost(metric, discrete=True) == network_cost(network, metric, SHAPE)
        assert float(model.get_cost(metric).detach()) == network_cost(network, metric, SHAPE)
    again = nasopt.restore(seed, json.loads(json.dumps(model.arch_structure())))
    again.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(x), network(x))


def test_a_layer_that_several_branches_read_counts_once() -> None:
    model = SuperNet(Several(), SHAPE).train()
    with torch.no_grad():
        model.choice_logits.copy_(torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25]).log())
    model(torch.randn(2, *SHAPE))
    # stem 2*4*9 + 4, side 4*4 + 4 for b or c, head 4*3 + 3; a has 4*4*9 + 4, c 4*4 + 4, norms folded into them
    expected = 76 + 15 + (0.2 + 0.3) * 20 + 0.1 * 148 + 0.3 * 20
    assert float(model.get_size().detach()) == pytest.approx(expected)
    for metric in METRICS:
        model.zero_grad()
        model.get_cost(metric).backward()
        assert bool(torch.isfinite(model.choice_logits.grad).all())  # type: ignore[arg-type]


@pytest.mark.parametrize("paths", ["all", "two", "sampled"])
def test_a_step_trains_and_draws(paths: Any) -> None:
    model = SuperNet(Several(groups=[3, 2]), SHAPE, hard_softmax=True, paths=paths).train()
    for _ in range(3):
        model.zero_grad()
        (model(torch.randn(4, *SHAPE)).square().sum() + 1e-3 * model.get_regularization_loss()).backward()
        assert bool(torch.isfinite(model.choice_logits.grad).all())  # type: ignore[arg-type]
    joint = PITSuperNet(Several(), SHAPE).train()
    (joint(torch.randn(4, *SHAPE)).square().sum() + 1e-3 * joint.get_regularization_loss()).backward()
    network = joint.arch_export()
    assert joint.get_cost("size", discrete=True) == network_cost(network, "size", SHAPE)


def test_a_budget_exchanges_kept_branches() -> None:
    free = SuperNet(Several(), SHAPE)
    with torch.no_grad():
        free.choice_logits[[0, 2]] = 3.0
    before = free.get_cost("size", discrete=True)
    model = SuperNet(Several(), SHAPE, regularizer=Budget(size=before - 1))
    model.choice_logits.data.copy_(free.choice_logits.data)
    model.settle_budget()
    assert model.get_cost("size", discrete=True) < before
    assert model.search_space()["cost"]["size"]["smallest"] <= model.get_cost("size", discrete=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0}, "keep must be an int from 1 to 2"),
        ({"keep": 3}, "keep must be an int from 1 to 2"),
        ({"groups": [1, 1]}, "add up to 3 branches"),
        ({"takes": [0, 1]}, "one position >= 0 per branch, 3 in all"),
        ({"names": ["a", "a", "b"]}, "3 different words"),
        ({"names": ["a.b", "a", "b"]}, "without dots"),
    ],
)
def test_sizes_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SuperNetModule([nn.Conv2d(4, 4, 1), nn.Identity(), Zero(4, 6, 6)], **settings)


def test_an_argument_that_is_not_given() -> None:
    seed = nn.Sequential(SuperNetModule([nn.Conv2d(2, 2, 1), nn.Identity()], takes=[0, 1]))
    with pytest.raises(ConfigError, match=r"called with 1 argument\(s\), and a branch takes that at position 1"):
        SuperNet(seed, SHAPE)
