"""Pruning by scores of weights: what the scores are, what goes, and who finds the ratios."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasopt import PIT, MixedPrecision, prune_quantised
from nasopt.errors import ConfigError, MissingExtraError
from nasopt.search.filter_scores import filter_scores

SHAPE = (1, 6, 6)
FEW = {"trials": (2, 1)}


class Residual(nn.Module):
    """Channels with two writers and three readers, a depthwise layer among them, and a flattened end."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.depthwise, self.inner = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(4 * 36, 3)
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        return self.last((x + self.inner(self.depthwise(x).relu())).flatten(1))


def quantised() -> nn.Module:
    model = MixedPrecision(Residual(), SHAPE, precision=2)
    model.calibrate([torch.randn(8, *SHAPE)])
    return model.arch_export()


def angle(v: Tensor, q: Tensor) -> float:
    return float(1 - (v * q).sum().detach() / (v.norm() * q.norm()).detach())


def test_interaction_scores_are_those_of_the_readers() -> None:
    """The one group: written by first and inner, read by inner, kernels of nine taps, and last, 36 numbers per channel."""
    model = Residual()
    found = filter_scores(PIT(model, SHAPE, kernel_search=False), quantizer=torch.sign)
    for c in range(4):
        inner = [angle(model.inner.weight[j, c], model.inner.weight[j, c].sign()) for j in range(4)]
        # Of every position in the end the three outputs are one vector.
        last = [angle(one, one.sign()) for one in model.last.weight[:, 36 * c : 36 * (c + 1)].T]
        means = [sum(inner) / 4, *last]
        assert found[c].item() == pytest.approx(sum(means) / len(means), rel=1e-4)


def test_own_scores_and_scales() -> None:
    model = Residual()
    search = PIT(model, SHAPE, kernel_search=False)
    own = filter_scores(search, "own", torch.sign)
    for c in range(4):
        weights = [layer.weight[c] for layer in (model.first, model.inner)]
        assert own[c].item() == pytest.approx(sum(angle(w, w.sign()) for w in weights) / 2, rel=1e-4)
    assert torch.equal(filter_scores(search, "gamma"), -model.norm.weight.abs())
    assert len(set(filter_scores(search, "random").tolist())) == 4


def test_quantised_layers_are_compared_with_their_own_copies() -> None:
    network: Any = quantised()
    with torch.no_grad():  # kernels that read channel 2 lie on their grid: nothing is left to remove them for
        network.inner.weight[:, 2] = network.inner.quantised_weight()[:, 2]
        network.last.weight[:, 72:108] = network.last.quantised_weight()[:, 72:108]
    scores = filter_scores(PIT(network, SHAPE, kernel_search=False))
    assert scores[2].item() == pytest.approx(0, abs=1e-6)
    assert scores.argmin() == 2


def accuracy_that_counts(order: list[int]) -> Any:
    """As if only channel 0 and 1 of the first layer mattered; notes how many there were."""

    def evaluate(model: PIT) -> float:
        alive = model.alpha > 0.5
        order.append(int(alive.sum()))
        assert not model.training
        return 0.9 if bool(alive[:2].all()) else 0.1

    return evaluate


@pytest.mark.parametrize("make", [Residual, quantised])
def test_removes_what_costs_no_accuracy(make: Any) -> None:
    seed, seen, tuned = make(), [], []
    before = {name: value.clone() for name, value in seed.state_dict().items()}

    pruned = prune_quantised(seed, SHAPE, accuracy_that_counts(seen), fine_tune=tuned.append, most=0.6, seed=1)
    assert all(torch.equal(value, before[name]) for name, value in seed.state_dict().items())
    (layer,) = pruned.layers
    best = min(value for _, value in layer.trials)
    assert (pruned.before, pruned.after) == (0.9, layer.accuracy)
    assert layer.channels == 4
    assert len(layer.trials) == 10
    assert pruned.network.get_submodule("first").out_channels == 4 - layer.removed
    assert layer.removed == 0 or len(tuned) == 1
    # The objective: error and what is left, in per cent
    at_end = 100 * (1 - pruned.after) + 0.1 * (pruned.size + pruned.size_bits / 4)
    assert at_end <= best + 1e-9
    assert len(seen) <= 2 + 4  # before, after, and every count once
    assert "weights left" in str(pruned)


def test_statistics_are_estimated_before_every_evaluation() -> None:
    batch, means = torch.randn(16, *SHAPE), []

    def evaluate(model: PIT) -> float:
        means.append(model.net.get_submodule("norm").running_mean.clone())
        return 0.5

    wanted = Residual().first(batch).mean((0, 2, 3))
    prune_quantised(Residual(), SHAPE, evaluate, recalibrate=[batch], **FEW)
    assert all(torch.allclose(one, wanted, atol=1e-5) for one in means)


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, message in (
        ({"score": "l1"}, "score must be 'interaction' or 'own' or 'gamma' or 'random', got 'l1'"),
        ({"most": 1.0}, r"most is the largest ratio of a layer, in \(0, 1\)"),
        ({"trials": (0, 5)}, r"trials are two counts >= 1"),
        ({"weight_of_size": -1.0}, r"weight_of_size must be >= 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            prune_quantised(Residual(), SHAPE, lambda _: 0.5, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"an accuracy in \[0, 1\], got 97.0"):
        prune_quantised(Residual(), SHAPE, lambda _: 97.0)
    with pytest.raises(ConfigError, match=r"no channel of this network can be removed"):
        prune_quantised(nn.Linear(4, 2), (4,), lambda _: 0.5)
    with pytest.raises(ConfigError, match=r"has no masks of channels"):
        filter_scores(MixedPrecision(Residual(), SHAPE, precision=4))
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install .nasopt\[optuna\]"):
        prune_quantised(Residual(), SHAPE, lambda _: 0.5)
