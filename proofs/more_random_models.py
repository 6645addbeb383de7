"""Random models of further kinds: groups, recurrent layers, attention, computed weights, layers with two names, sizes of others.

python proofs/more_random_models.py --first 0 --count 1000
"""

from __future__ import annotations

import random
from typing import Any

import torch
from random_models import PARTS, Forward, Part, main
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize


def grouped(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    to = width * chance.choice([1, 2]) if width < 8 else width
    model.add_module(name, nn.Conv2d(width, to, 3, padding=1, groups=chance.choice([2, width])))
    return lambda m, x: getattr(m, name)(x), to


class Rounded(nn.Module):
    """A weight in steps of 1/16."""

    def forward(self, w: Tensor) -> Tensor:
        return (w * 16).round() / 16 + w * 0.1


def altered(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    """Weights that torch computes at every call."""
    layer: nn.Module = nn.Conv2d(width, width, 3, padding=1)
    if chance.random() < 0.5:
        layer = parametrizations.weight_norm(layer)
    else:
        parametrize.register_parametrization(layer, "weight", Rounded())
    model.add_module(name, layer)
    return lambda m, x: getattr(m, name)(x), width


def aliased(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    """One layer under two names, of which one is called."""
    model.add_module(name, nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU()))
    model.add_module(f"{name}_again", getattr(model, name)[0])
    return chance.choice([lambda m, x: getattr(m, name)(x), lambda m, x: getattr(m, f"{name}_again")(x)]), width


def sequence(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    """Rows of the image as steps of a recurrent layer, from nothing or from zeros."""
    directions = chance.choice([1, 2])
    from_zeros = chance.random() < 0.5
    kind: Any = chance.choice([nn.LSTM, nn.GRU, nn.RNN])
    model.add_module(name, kind(width, 4, batch_first=True, bidirectional=directions == 2))
    model.add_module(f"{name}_out", nn.Linear(4 * directions, width))

    def forward(m: Any, x: Tensor) -> Tensor:
        layer, steps = getattr(m, name), x.mean(3).transpose(1, 2)
        zeros = torch.zeros(directions, x.shape[0], 4)
        state = (zeros, zeros) if isinstance(layer, nn.LSTM) else zeros
        y, _ = layer(steps, state) if from_zeros else layer(steps)
        return x + getattr(m, f"{name}_out")(y).transpose(1, 2).unsqueeze(3)

    return forward, width


def attention(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    model.add_module(name, nn.Linear(width, 3 * width))
    model.add_module(f"{name}_norm", chance.choice([nn.LayerNorm, nn.RMSNorm])(width))

    def by_hand(m: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = getattr(m, f"{name}_norm")(x.flatten(2).transpose(1, 2))
        q, k, v = getattr(m, name)(tokens).reshape(b, h * w, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        y = (q @ k.transpose(-2, -1) * 0.3).softmax(-1) @ v
        return x + y.transpose(1, 2).reshape(b, h * w, c).transpose(1, 2).reshape(b, c, h, w)

    def fused(m: Any, x: Tensor) -> Tensor:
        q, k, v = getattr(m, name)(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        return x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)

    return chance.choice([by_hand, fused]), width


def filled(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    """Tensors of equal numbers, and sizes of one tensor for another."""
    model.add_module(name, nn.Conv2d(width, width, 1))

    def halves(m: Any, x: Tensor) -> Tensor:
        y = x.new_zeros(x.shape[0], 2 * width, *x.shape[2:])
        y[:, :width], y[:, width:] = x, getattr(m, name)(x)
        return y[:, :width] + y[:, width:]

    def split(m: Any, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        rows, columns = torch.cat([x.mean(3), x.mean(2)], 2).split([h, w], 2)
        return getattr(m, name)(x) * rows.unsqueeze(3).sigmoid() * columns.unsqueeze(2).sigmoid()

    return chance.choice(
        [
            halves,
            split,
            lambda m, x: torch.zeros(x.shape[0], width, x.shape[2], x.shape[3]) + getattr(m, name)(x),
            lambda m, x: x.flatten(1).reshape(getattr(m, name)(x).shape),
        ]
    ), width


NEW: list[Part] = [grouped, altered, aliased, sequence, attention, filled]
KINDS: list[Part] = [*NEW, *NEW, *PARTS]


if __name__ == "__main__":
    main(KINDS)
