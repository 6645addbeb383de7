"""Heads of detectors and classifiers whose train path is another one: other outputs, lists that they write into, caches."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from settings import scramble, tensors
from torch import Tensor, nn

from nasopt import PIT
from nasopt.errors import TraceWarning


class Detect(nn.Module):
    """Writes into the list that it is given, keeps grids for the next call, and returns boxes in eval mode only."""

    def __init__(self, widths: tuple[int, ...] = (4, 6), in_place: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(width, 2 * 6, 1) for width in widths)
        self.in_place = in_place
        self.grid = [torch.empty(0) for _ in widths]

    def forward(self, x: list[Tensor]) -> Any:
        found = []
        for i, layer in enumerate(self.layers):
            x[i] = layer(x[i])
            b, _, h, w = x[i].shape
            x[i] = x[i].view(b, 2, 6, h, w).permute(0, 1, 3, 4, 2).contiguous()
            if self.training:
                continue
            if self.grid[i].shape[2:4] != x[i].shape[2:4]:
                grid = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy"), 2)
                self.grid[i] = grid.expand(1, 2, h, w, 2).float()
            y = x[i].sigmoid()
            if self.in_place:
                y[..., 0:2] = y[..., 0:2] * 2 + self.grid[i]
            else:
                centre, rest = y.split((2, 4), 4)
                y = torch.cat([centre * 2 + self.grid[i], rest], 4)
            found.append(y.view(b, -1, 6))
        return x if self.training else (torch.cat(found, 1), x)


class Detector(nn.Module):
    """Two scales and a head."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.first, self.second = (
            nn.Conv2d(3, 8, 3, 1, 1),
            nn.Conv2d(8, 4, 3, 1, 1),
            nn.Conv2d(4, 6, 3, 2, 1),
        )
        self.head = head

    def forward(self, x: Tensor) -> Any:
        features = [self.first(self.stem(x).relu()).relu()]
        features.append(self.second(features[0]).relu())
        return self.head(features)


@pytest.mark.parametrize("leaves", [(), (Detect,), ("head",)], ids=["traced", "by_class", "by_name"])
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_detectors_are_their_seeds(leaves: Any, in_place: bool, training: bool) -> None:
    """Search model and export return what the seed returns, in both modes."""
    seed = Detector(Detect(in_place=in_place)).train(training)
    model: Any = PIT(seed, (3, 8, 8), leaf_modules=leaves, unpriced="ignore")
    assert seed.head.grid[0].numel() == 0
    x = torch.randn(2, 3, 8, 8)
    for mode in (True, False):
        wanted = copy.deepcopy(seed).train(mode)(x.clone())
        found = model.train(mode)(x.clone())
        assert type(found) is type(wanted)
        for one, other in zip(tensors(wanted), tensors(found), strict=True):
            torch.testing.assert_close(other, one)
    with torch.no_grad():
        scramble(model)
    network = model.arch_export()
    assert network.train()(x)[0].shape == (2, 2, 8, 8, 6)


class Auxiliary(nn.Module):
    """A classifier with a head for training."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.auxiliary = nn.Sequential(nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        self.form = form

    def forward(self, x: Tensor) -> Any:
        y = self.layer(x).relu()
        out = self.head(y.mean((2, 3)))
        return self.form(out, self.auxiliary(y)) if self.training else out


@pytest.mark.parametrize("form", [lambda a, b: (a, b), lambda a, b: {"out": a, "aux": b}, lambda a, b: [b, a]])
def test_a_head_for_training_only_is_left_out_with_a_word(form: Any) -> None:
    """The search follows the path that is deployed, and says so."""
    seed = Auxiliary(form)
    with pytest.warns(TraceWarning, match="follows the eval path"):
        model: Any = PIT(seed, (3, 8, 8))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model.eval()(x), seed.eval()(x))
    assert model.train()(x).shape == (2, 2)
    assert not any(name.startswith("net.auxiliary") for name, _ in model.named_parameters())
