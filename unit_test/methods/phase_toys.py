"""The smallest search model of every method, for tests of what leads a search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nasopt import NASB, PIT, PITSuperNet, Precision, SuperNet, SuperNetModule
from nasopt.search.schedule import exponential
from unit_test.methods.nasb_seeds import Block

SHAPE = (3, 6, 6)


def unit(kernel: int, width: int = 4) -> list[nn.Module]:
    return [nn.Conv2d(3, width, kernel, padding=kernel // 2), nn.BatchNorm2d(width), nn.ReLU()]


def convnet(width: int = 4) -> nn.Module:
    return nn.Sequential(*unit(3, width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


def alternatives() -> nn.Module:
    choice = SuperNetModule([nn.Sequential(*unit(3)), nn.Sequential(*unit(1)), nn.Sequential(*unit(5))])
    return nn.Sequential(choice, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def nasb(**settings: Any) -> NASB:
    seed = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Sequential(Block(4, 4)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    )
    return NASB(seed, SHAPE, cells=["3"], candidates=["conv_3x3", "conv_1x1", "identity", "zero"], **settings)


METHODS: dict[str, Callable[[], Any]] = {
    "pit": lambda: PIT(convnet(), SHAPE, regularizer="macs", relative=True),
    "supernet": lambda: SuperNet(alternatives(), SHAPE, relative=True, temperature=exponential(5, 0.5, 3)),
    "supernet_gumbel": lambda: SuperNet(alternatives(), SHAPE, relative=True, gumbel_softmax=True, paths="two"),
    "pit_supernet": lambda: PITSuperNet(alternatives(), SHAPE, relative=True, temperature=2.0),
    "nasb": lambda: nasb(relative=True),
    "pit_widths": lambda: PIT(
        convnet(), SHAPE, regularizer="flash", relative=True, precision=Precision((2, 4, 8), (4, 8), first_last=None)
    ),
}


def batch(size: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(size, *SHAPE), torch.randint(0, 3, (size,))
