"""Seeds for tests of NASB, each named after what it shows."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHAPE = (3, 12, 12)


class Block(nn.Module):
    """Two convolutions beside a shortcut, with a down-sampling layer where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.down = None
        if stride > 1 or inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu(y + (x if self.down is None else self.down(x)))


class Residual(nn.Module):
    """A stem, two stages of two blocks (or `blocks`), a classifier."""

    def __init__(self, width: int = 4, blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stage1 = nn.Sequential(*(Block(width, width) for _ in range(blocks)))
        more = (Block(2 * width, 2 * width) for _ in range(blocks - 1))
        self.stage2 = nn.Sequential(Block(width, 2 * width, 2), *more)
        self.head = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage2(self.stage1(self.stem(x))).mean((2, 3)))


class Short(Residual):
    """The same with one block per stage: a third of the edges."""

    def __init__(self) -> None:
        super().__init__(blocks=1)


class Plain(nn.Module):
    """No shortcut, no norm in the stage, a pooling between its convolutions and one behind them, a bias, groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.features = nn.Sequential(
            *(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.1)),
            *(nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.Tanh(), nn.MaxPool2d(2)),
        )
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(torch.relu(self.stem(x))).mean((2, 3)))


class PreActivation(nn.Module):
    """Norm and activation stand before every convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((4, 6, 1), (6, 6, 2), (6, 8, 1)):
            layers += [nn.BatchNorm2d(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, stride, 1)]
        self.stage = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage(self.stem(x)))


SEEDS: dict[str, tuple[Any, list[str]]] = {
    "residual": (Residual, ["stage1", "stage2"]),
    "short": (Short, ["stage1", "stage2"]),
    "plain": (Plain, ["features"]),
    "preactivation": (PreActivation, ["stage"]),
}


def torchvision_models() -> Any:
    """torchvision's models, from beside the environment; its compiled part, which nothing here calls, fits another torch."""
    if "torchvision" not in sys.modules:
        sys.path.append(f"{sys.prefix}/torchvision")
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
    return importlib.import_module("torchvision.models")
