"""Toys whose `forward` is the feature: several inputs and outputs, repeated calls, functions, sizes, tied weights."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toys.table import toy


class Outputs(NamedTuple):
    """A result with names."""

    logits: Tensor
    features: Tensor


@toy("inputs_and_outputs", (3, 6, 6), (2, 6, 6), channels=4)
class InputsAndOutputs(nn.Module):
    """Two inputs, a default argument, a dict with a tuple; what is returned stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(2, 4, 3)
        self.feature = nn.Conv2d(4, 5, 1)
        self.head = nn.Linear(5, 3)
        self.unused = nn.Linear(7, 7)

    def forward(self, image: Tensor, depth: Tensor, scale: float = 2.0, mask: Tensor | None = None) -> dict[str, Any]:
        image, depth = self.left(image), self.right(depth)
        if mask is not None:
            image = image * mask
        features = self.feature(torch.where(image > 0, image, scale * depth))
        return {"logits": self.head(features.mean((2, 3))), "more": (features, [features.mean()])}


@toy("named_outputs", (5,), channels=6)
class NamedOutputs(nn.Module):
    """A named tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(5, 6)
        self.features = nn.Linear(6, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Outputs:
        features = self.features(self.hidden(x).relu())
        return Outputs(features=features, logits=self.head(features))


@toy("called_twice", (3, 6, 6), channels=4)
class CalledTwice(nn.Module):
    """One convolution and one norm, called twice: what it reads and what it writes are the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(2):
            x = self.norm(self.again(x)).relu()
        return self.head(x.mean((-1, -2)))


@toy("tied_weights", (6,), channels=4)
class TiedWeights(nn.Module):
    """Two layers share one weight; both write and both read the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(6, 4)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).relu() + self.second(x).sigmoid())


@toy("functions_only", (3, 6, 6), channels=4 + 5)
class FunctionsOnly(nn.Module):
    """No layer at all: convolution, depthwise convolution, linear and norm as functions of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(4))
        self.depthwise = nn.Parameter(torch.randn(4, 1, 3, 3))
        self.hidden = nn.Parameter(torch.randn(5, 4))
        self.norm = nn.Parameter(torch.rand(5) + 0.5)
        self.slope = nn.Parameter(torch.rand(4))
        self.head = nn.Parameter(torch.randn(3, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.prelu(F.conv2d(x, self.weight, self.bias, stride=2), self.slope)
        x = F.conv2d(x, weight=self.depthwise, padding=1, groups=4).sigmoid()
        x = F.linear(torch.flatten(F.max_pool2d(x, 2), 1), self.hidden) * self.norm
        return F.linear(F.leaky_relu(x, 0.1), self.head)


@toy("constant_sizes", (4, 6), channels=5 + 4)
class ConstantSizes(nn.Module):
    """Views whose sizes are numbers; half of the hidden channels meets the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.second = nn.Linear(4 * 5, 8)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu().view(-1, 20)).unflatten(1, (2, 4)).amax(1)
        return self.head(x)


@toy("sizes_as_values", (3, 6, 6), channels=9)
class SizesAsValues(nn.Module):
    """`x / sqrt(channels)` goes on with the seed's number when channels go. Checks on sizes and types are just answered."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(x, Tensor)
        if x.dim() != 4 or x.shape[1] != 3:
            raise ValueError("wants images")
        x = self.first(x)
        x = self.second(x / math.sqrt(x.size(1)))
        state = torch.zeros(x.size(0), x.size(1), 1, 1, dtype=x.dtype)
        for row in x.unbind(2):
            state = state + row.unsqueeze(2).mean(3, keepdim=True).tanh()
        return self.head(state.flatten(1))


@toy("assignment", (3, 6, 6), channels=4)
class Assignment(nn.Module):
    """Part of the space is overwritten; in-place functions and operators on top."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(x)
        x = self.first(x).clone()
        x.mul_(2.0).add_(y)
        x -= 1
        x[:, :, 0] = 0.5
        x[..., 1:] = y[..., 1:]
        return self.head(F.relu_(x).sigmoid().sum((2, 3)))
