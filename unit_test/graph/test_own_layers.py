"""Layers and functions of a user: taught, untaught, altered by hooks, returned in containers, different by mode."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from settings import largest_difference, scramble
from torch import Tensor, nn
from torch.nn import functional as F

import nasopt
from nasopt import PIT
from nasopt.graph import registry


class Gain(nn.Module):
    """A factor per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        # Written so that nasopt could not follow it by itself.
        return torch.einsum("nchw,c->nchw", x, self.gain)


def double_plus_one(x: Tensor) -> Tensor:
    return 2 * x + 1


class CallsFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return double_plus_one(x)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules taught in a test are forgotten after it."""
    for name in ("_LAYERS", "_FUNCTIONS", "_METHODS"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


def around(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), layer, nn.Conv2d(6, 4, 1), nn.Conv2d(4, 2, 1)).double()


def sizes(model: PIT) -> list[int]:
    return [group.size for group in model.explain().groups if group.searchable]


def assert_exact(model: PIT, seed: nn.Module) -> None:
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    model.eval(), seed.eval()
    assert largest_difference(seed(x), model(x)) < 1e-12
    for kind in ("uniform", "all_zero"):
        scramble(model, kind)
        assert largest_difference(model(x), model.arch_export()(x)) < 1e-9


def test_layer_rule(tables: None) -> None:
    seed = around(Gain(6))
    assert sizes(PIT(seed, (3, 6, 6))) == [4]

    @nasopt.layer_rule(Gain)
    def gain(call: Any) -> Any:
        channels = call.channels(call.args[0], dim=1)
        call.slices("gain", 0, channels)
        call.cost("parameter", 1, channels)
        return call.args[0]

    model = PIT(seed, (3, 6, 6))
    assert sizes(model) == [6, 4]
    # Weights: 6*3*9 + 6, one gain per channel, 4*6 + 4, 2*4 + 2.
    assert model.get_cost("size", discrete=True) == 168 + 6 + 28 + 10
    assert_exact(model, seed)


def test_function_rule(tables: None) -> None:
    seed = around(CallsFunction())

    @nasopt.function_rule(double_plus_one)
    def passes_on(call: Any) -> Any:
        return call.argument(0, "x")

    model = PIT(seed, (3, 6, 6))
    assert "double_plus_one" in model.net.code
    assert sizes(model) == [6, 4]
    assert_exact(model, seed)


def test_a_hook_that_needs_its_channels_keeps_them() -> None:
    """What it does is a part of the graph; before and after it the search goes on."""
    seed = around(nn.Conv2d(6, 6, 1))
    seed.get_submodule("1").register_forward_hook(lambda module, inputs, output: output.flip(1) * 3)
    model = PIT(seed, (3, 6, 6))
    assert sizes(model) == [6, 6, 4]
    assert_exact(model, seed)


def test_hooks_of_the_whole_model_are_part_of_it() -> None:
    seed = around(nn.Conv2d(6, 6, 1))
    seed.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    seed.register_forward_hook(lambda module, inputs, output: output + inputs[0].mean())
    model = PIT(seed, (3, 6, 6))
    assert sizes(model) == [6, 6, 4]
    assert_exact(model, seed)


def test_forward_of_the_instance_is_the_one_that_counts() -> None:
    seed = around(nn.Conv2d(6, 6, 1))
    seed.forward = types.MethodType(lambda self, x: nn.Sequential.forward(self, x * 2) + 1, seed)
    model = PIT(seed, (3, 6, 6))
    assert sizes(model) == [6, 6, 4]
    assert_exact(model, seed)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "alter",
    [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.orthogonal, nn.utils.weight_norm],
)
def test_altered_weights_are_searched(alter: Callable[[nn.Module], nn.Module]) -> None:
    seed = around(alter(nn.Conv2d(6, 6, 1)))
    model = PIT(seed, (3, 6, 6))
    assert sizes(model) == [6, 6, 4]
    assert_exact(model, seed)


@dataclass
class Result:
    logits: Tensor
    features: Tensor


class ReturnsData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Result:
        features = self.features(x)
        return Result(self.head(features), features=features)


@pytest.mark.filterwarnings("ignore::nasopt.errors.NoEffectWarning")
def test_what_is_returned_in_a_data_class_stays() -> None:
    model = PIT(ReturnsData(), (4,))
    assert not sizes(model)
    assert model(torch.ones(1, 4)).features.shape == (1, 6)


class DropsOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(50, 60), nn.Linear(60, 50)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.second(F.relu(self.first(x))), 0.5, training=self.training)


def test_functional_dropout_follows_the_mode() -> None:
    seed = DropsOut()
    for model in (PIT(seed, (50,)), PIT(seed, (50,)).arch_export(), PIT(seed.eval(), (50,)).arch_export()):
        x = torch.ones(4, 50)
        assert int((model.train()(x) == 0).sum()) > 20
        assert int((model.eval()(x) == 0).sum()) == 0


class OtherPath(DropsOut):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.second(x).tanh() if self.training else self.second(x)


def test_another_path_in_training_is_followed() -> None:
    seed = OtherPath()
    model, x = PIT(seed, (50,)), torch.randn(3, 50)
    for training in (True, False):
        assert torch.equal(model.train(training)(x), seed.train(training)(x))
