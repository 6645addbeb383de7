"""Members of seeds and search models: hooks on layers, names that torch.fx has a use for, parameters of functions."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from nasopt import PIT
from nasopt.cost import network_cost
from nasopt.errors import ConfigError, NoEffectWarning, UnpricedError


def test_hooks_on_layers_of_a_search_model_fire() -> None:
    """On every kind of layer whose weight is masked; what they return counts, as in torch."""
    seed = nn.Sequential(
        nn.Conv1d(2, 4, 1), nn.LayerNorm(6), nn.GroupNorm(1, 4), nn.Conv1d(4, 4, 3), nn.Conv1d(4, 3, 1)
    )
    model: Any = PIT(seed, (2, 6))
    seen: list[str] = []
    x = torch.randn(2, 2, 6)
    wanted = model(x)
    for name in ("0", "1", "2", "3", "4"):
        layer = model.net.get_submodule(name)
        layer.register_forward_pre_hook(lambda module, inputs, name=name: seen.append(f"before {name}"))
        layer.register_forward_hook(lambda module, inputs, output, name=name: seen.append(f"after {name}"))
    assert torch.equal(model(x), wanted)
    assert seen == [f"{when} {name}" for name in "01234" for when in ("before", "after")]
    model.net.get_submodule("4").register_forward_hook(lambda module, inputs, output: output + 1)
    assert torch.equal(model(x), wanted + 1)
    model(x).sum().backward()


@pytest.mark.parametrize("name", ["graph", "meta", "code"])
def test_names_that_a_graph_module_needs_are_refused(name: str) -> None:
    seed = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    seed.add_module(name, nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=f"has a member named '{name}'"):
        PIT(seed, (4,))


class NormTwice(nn.Module):
    """One functional norm and one linear layer, called twice."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 4)
        self.scale, self.shift = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("variance", torch.ones(8))

    def step(self, x: Tensor) -> Tensor:
        x = self.layer(x).relu()
        if self.kind == "layer":
            return F.layer_norm(x, (8,), self.scale, self.shift)
        if self.kind == "group":
            return F.group_norm(x, 2, self.scale, self.shift)
        return F.batch_norm(x, self.mean, self.variance, self.scale, self.shift, self.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.step(self.step(x)))


@pytest.mark.parametrize("kind", ["layer", "group", "batch"])
def test_a_functional_norm_is_stored_once(kind: str) -> None:
    """However often it is called: 8 x 8 + 8, 8 x 4 + 4, and two factors per channel."""
    assert network_cost(NormTwice(kind), "size", (8,)) == 72 + 36 + 16


class Distances(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x, x)


def test_work_that_nobody_knows_is_in_no_total_in_silence() -> None:
    seed = nn.Sequential(nn.Conv1d(2, 4, 1), Distances())
    with pytest.raises(UnpricedError, match="macs: nobody knows what cdist costs"):
        network_cost(seed, "macs", (2, 6))
    assert network_cost(seed, "macs", (2, 6), unpriced="ignore") == 2 * 4 * 6
    assert network_cost(seed, "size", (2, 6)) == 2 * 4 + 4


class PadsBySize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.second(F.pad(x, (0, x.shape[3] % 4, 0, round(x.shape[2] / 3))))


def test_networks_that_pad_by_a_computed_size_have_every_cost() -> None:
    """6 x 6 outputs of 27 x 4 products, and those of 36 x 2 over an image of 8 x 8."""
    assert network_cost(PadsBySize(), "macs", (3, 8, 8)) == 36 * 27 * 4 + 36 * 36 * 2
    assert network_cost(PadsBySize(), "memory:tflm", (3, 8, 8)) > 0


@fx.wrap
def kept_whole(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight).relu()


class CallsWrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(kept_whole(self.first(x), self.second.weight))


def test_wrapped_functions_of_libraries_that_can_be_followed_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own stays whole and fixes its channels."""
    for opened, channels in (([], 0), ([__name__], 16)):
        monkeypatch.setattr("nasopt.graph.opened.OPENED", opened)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoEffectWarning)
            model: Any = PIT(CallsWrapped(), (4,), unpriced="ignore")
        assert model.search_space()["searchable_channels"] == channels
    assert fx._symbolic_trace._wrapped_fns_to_patch
