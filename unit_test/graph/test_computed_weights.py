"""Weights that torch's parametrizations, norms of weights and pruning compute are searched; exports hold their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from same import assert_same
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import weight_norm as weight_norm_by_hook

import nasopt
from nasopt import PIT
from nasopt.cost import network_cost

Change = Callable[[nn.Module], nn.Module]


class Half(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w * 0.5


class Standardised(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return (w - w.mean((1, 2), keepdim=True)) / (w.std((1, 2), keepdim=True) + 1e-5)


class Rounded(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w + ((w * 16).round().clamp(-128, 127) / 16 - w).detach()


class Bounded(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        norm = w.norm(2, dim=0, keepdim=True)
        return w * (norm.clamp(max=1.0) / (1e-8 + norm))


def by(*parts: Callable[[], nn.Module], name: str = "weight") -> Change:
    def change(layer: nn.Module) -> nn.Module:
        for part in parts:
            parametrize.register_parametrization(layer, name, part())
        return layer

    return change


CHANGES: dict[str, Change] = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm_of_inputs": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "weight_norm_by_hook": weight_norm_by_hook,
    "elementwise": by(Half),
    "standardised": by(Standardised),
    "chain": by(Standardised, Half),
    "rounded": by(Rounded),
    "max_norm": by(Bounded),
    "bias": by(Half, name="bias"),
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
}


class Net(nn.Module):
    """Dense, depthwise, grouped and transposed convolutions; one is registered under two names."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.first = change(nn.Conv1d(2, 4, 3, padding=1))
        self.rest = nn.Sequential(
            self.first,
            nn.BatchNorm1d(4),
            nn.ReLU(),
            change(nn.Conv1d(4, 4, 3, padding=1, groups=4)),
            change(nn.Conv1d(4, 6, 3, padding=1, groups=2)),
            nn.ReLU(),
            change(nn.ConvTranspose1d(6, 4, 4, 2, 1)),
        )
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rest(x).mean(2))


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("name", CHANGES)
def test_layers_with_computed_weights_are_searched(name: str) -> None:
    """Search model and export are the seed; every channel is searchable; costs are those of the export, which restores."""
    torch.manual_seed(0)
    if name not in ("weight_norm_by_hook", "pruned"):  # these seeds cannot be copied by deepcopy
        assert_same(Net(CHANGES[name]), (2, 8))
    model: Any = PIT(Net(CHANGES[name]), (2, 8), regularizer="macs")
    space = model.search_space()
    assert space["searchable_channels"] == 2 + 3 + 4  # those of groups in twos
    assert space["searchable_weights"] == space["weights"] - 3
    with torch.no_grad():
        for parameter in model.arch_parameters():
            parameter.copy_(torch.rand_like(parameter))
    network = model.arch_export()
    for metric in ("size", "macs"):
        assert model.get_cost(metric, discrete=True) == network_cost(network, metric, (2, 8))
    assert sum(p.numel() for p in network.parameters()) < sum(p.numel() for p in model.net.parameters())
    restored = nasopt.restore(Net(CHANGES[name]), model.arch_structure())
    restored.load_state_dict(network.state_dict())
    x = torch.randn(2, 2, 8)
    assert torch.equal(restored.eval()(x), network.eval()(x))


@pytest.mark.filterwarnings("ignore:.*can change little")
def test_spectral_norm_stays_whole_and_is_unpriced() -> None:
    """What it changes in train mode is no path of a graph."""
    seed = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), parametrizations.spectral_norm(nn.Conv1d(4, 3, 3)))
    model: Any = PIT(seed, (2, 8), unpriced="ignore")
    assert model.search_space()["unpriced"] == ["2"]


class Signs(nn.Module):
    """Signs with the mean of each channel as their scale, in a region without gradients; some write in place."""

    def __init__(self, sign: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            sign = self.sign(weight)
            return sign * (weight * sign).mean((1, 2), keepdim=True)


def _in_place(weight: Tensor) -> Tensor:
    return (weight >= 0).to(weight.dtype).mul_(2).sub_(1)


def _through_a_view(weight: Tensor) -> Tensor:
    signs = torch.ones_like(weight)
    signs.view(-1).mul_(weight.sign().reshape(-1))
    return signs


def _in_slices(weight: Tensor) -> Tensor:
    signs = weight.sign() * 3
    signs[:, :1] = 1.0
    return signs


@pytest.mark.filterwarnings("ignore:.*can change little")
@pytest.mark.parametrize(
    ("sign", "is_searched"),
    [(torch.sign, True), (_in_place, False), (_through_a_view, False), (_in_slices, False)],
)
def test_what_is_written_in_place_without_gradients_stays(sign: Callable[[Tensor], Tensor], is_searched: bool) -> None:
    """Such a change is no input of what is computed: it was left out of the exported weight."""
    torch.manual_seed(0)
    seed = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 5, 3), nn.ReLU(), nn.Conv1d(5, 3, 1))
    parametrize.register_parametrization(seed[2], "weight", Signs(sign))
    model: Any = PIT(seed, (2, 8))  # exports a network of random channels for a try
    assert model.search_space()["searchable_channels"] == (4 + 5 if is_searched else 0)
    x = torch.randn(2, 2, 8)
    torch.testing.assert_close(model.eval()(x), seed.eval()(x))
    torch.testing.assert_close(model.arch_export()(x), model(x))
