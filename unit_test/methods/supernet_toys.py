"""Small seeds with alternatives, each named after the one feature it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks_mlperf_tiny.networks import ds_cnn, resnet8
from nasopt import SuperNetModule, with_candidates


def unit(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, norm and activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def separable(inputs: int, outputs: int) -> nn.Sequential:
    """Depthwise and pointwise."""
    return nn.Sequential(*unit(inputs, inputs, 3, groups=inputs), *unit(inputs, outputs, 1))


def head(channels: int) -> nn.Sequential:
    """Mean over space and a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))


class Plain(nn.Module):
    """Two choices in a row; the second reads the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 4, 3)
        self.first = SuperNetModule([unit(4, 6, 3), unit(4, 6, 5), separable(4, 6)])
        self.second = SuperNetModule([unit(6, 6, 3), nn.Identity(), separable(6, 6)])
        self.head = head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(self.stem(x))))


class Nested(nn.Module):
    """A choice in a branch of a choice, twice."""

    def __init__(self) -> None:
        super().__init__()
        inner = SuperNetModule([unit(4, 4, 1), SuperNetModule([unit(4, 4, 5), nn.Identity()])])
        self.stem = unit(3, 4, 3)
        self.choice = SuperNetModule([unit(4, 5, 3), nn.Sequential(unit(4, 4, 3), inner, nn.Conv2d(4, 5, 1))])
        self.head = head(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.choice(self.stem(x)))


class SharedNorm(nn.Module):
    """A norm behind the choice: it folds into some of the branches, or into the layer before."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, bias=False)
        plain = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.choice = SuperNetModule(
            [plain, unit(4, 4, 3), nn.Identity(), SuperNetModule([nn.Identity(), nn.Conv2d(4, 4, 1)])]
        )
        self.norm = nn.BatchNorm2d(4)
        self.head = head(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.choice(self.stem(x)))))


class Residual(nn.Module):
    """Choices whose outputs are tied: to their input, to another choice and to a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 5, 3)
        self.left = SuperNetModule([unit(5, 5, 3), unit(5, 5, 1)])
        self.right = SuperNetModule([separable(5, 5), nn.Identity()])
        self.plain = nn.Conv2d(5, 5, 1)
        self.free = SuperNetModule([unit(5, 4, 1), unit(5, 4, 3)])
        self.head = head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.left(x) + x
        return self.head(self.free(self.right(x) + self.plain(x)))


class Sigmoid(nn.Module):
    """What is 0 before is not 0 behind."""

    def __init__(self) -> None:
        super().__init__()
        self.choice = SuperNetModule([nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 5, 1)])
        self.norm = nn.BatchNorm2d(5)
        self.head = head(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sigmoid(self.norm(self.choice(x))))


class Twice(nn.Module):
    """A choice that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 4, 3)
        self.choice = SuperNetModule([unit(4, 4, 3), unit(4, 4, 1), nn.Identity()])
        self.head = head(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.choice(F.max_pool2d(self.choice(self.stem(x)), 2)))


class InPlace(nn.Module):
    """A choice that may return its input, changed in place behind it and used again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.choice = SuperNetModule([nn.Conv2d(4, 4, 3, padding=1), nn.Identity()])
        self.head = head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.choice(x)
        y = F.relu(y, inplace=True)
        y += x
        return self.head(y)


class Dropping(nn.Module):
    """Functional dropout in a branch, direct parameters in another."""

    class Drop(nn.Module):
        """A branch with a functional dropout."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.conv(x), 0.5, self.training)

    class Scale(nn.Module):
        """A branch whose parameters and buffers are used directly."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4, 1, 1))
            self.gain = nn.Parameter(torch.rand(4, 1, 1))
            self.register_buffer("shift", torch.rand(1, 4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight) * self.gain + self.shift

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 4, 3)
        self.choice = SuperNetModule([self.Scale(), self.Drop()])
        self.head = head(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.choice(self.stem(x)))


class TwoInputs(nn.Module):
    """Branches that take two tensors."""

    class Join(nn.Module):
        """Concatenate and mix, or add."""

        def __init__(self, cat: bool) -> None:
            super().__init__()
            self.cat = cat
            self.conv = nn.Conv2d(8 if cat else 4, 4, 3, padding=1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.conv(torch.cat([x, y], 1) if self.cat else x + y)

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = unit(3, 4, 3), unit(3, 4, 1)
        self.choice = SuperNetModule([self.Join(True), self.Join(False)])
        self.head = head(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.choice(self.left(x), self.right(x)))


class Tied(nn.Module):
    """One convolution in branches of two choices, and a layer outside that shares the weight of a branch."""

    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv2d(4, 4, 3, padding=1)
        self.stem = unit(3, 4, 3)
        self.first = SuperNetModule([nn.Sequential(conv, nn.ReLU()), unit(4, 4, 1)])
        self.second = SuperNetModule([unit(4, 4, 1), nn.Sequential(conv, nn.BatchNorm2d(4)), nn.Identity()])
        self.head = head(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(self.stem(x))))


class Temporal(nn.Module):
    """Branches with kernels in time."""

    def __init__(self) -> None:
        super().__init__()
        self.choice = SuperNetModule([nn.Conv1d(3, 4, 9, padding=4), nn.Conv1d(3, 4, 3, padding=1)])
        self.norm = nn.BatchNorm1d(4)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.relu(self.norm(self.choice(x))).mean(-1))


class OnlyOutput(nn.Module):
    """The choice is the network's output: its channels are fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 4, 3)
        self.choice = SuperNetModule([nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(4, 3, 1)])

    def forward(self, x: Tensor) -> Tensor:
        return self.choice(self.stem(x))


@dataclass(frozen=True)
class SuperToy:
    """A seed with alternatives, the shape of one sample, and whether it is a benchmark network."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 8, 8)
    is_network: bool = False

    def seed(self) -> nn.Module:
        """Fresh float64 weights, and norms that have seen something."""
        model = self.build().double()
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                # Small, so that no channel is dead behind a ReLU.
                nn.init.normal_(module.bias, std=0.2)
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 1.5)
        return model

    def batch(self) -> Tensor:
        """Four samples."""
        return torch.randn(4, *self.shape, dtype=torch.float64)


KINDS = (Plain, Nested, SharedNorm, Residual, Sigmoid, Twice, InPlace, Dropping, TwoInputs, Tied, OnlyOutput)
SUPER_TOYS: dict[str, SuperToy] = {kind.__name__: SuperToy(kind) for kind in KINDS}
SUPER_TOYS["Temporal"] = SuperToy(Temporal, (3, 20))
SUPER_TOYS["resnet8"] = SuperToy(lambda: with_candidates(resnet8(width=4), (3, 32, 32)), (3, 32, 32), True)
SUPER_TOYS["ds_cnn"] = SuperToy(lambda: with_candidates(ds_cnn(), (1, 49, 10)), (1, 49, 10), True)


def candidate_layers() -> nn.Module:
    """Two places with layers of `nasopt.nn`, the second one with a stride and more channels."""
    layers = [*unit(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU()]
    layers += [nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    names = ("multi_head2", "reaf_2_1", "adder", "fractal1", "light_skip")
    return with_candidates(nn.Sequential(*layers, nn.Linear(6, 3)), (3, 8, 8), ["3", "6"], candidates=names)


SUPER_TOYS["candidate_layers"] = SuperToy(candidate_layers)
