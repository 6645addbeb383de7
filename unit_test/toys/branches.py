"""Toys whose channels meet: branches that are added, concatenated, multiplied, split or shuffled."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toys.table import toy


class Headed(nn.Module):
    """A stem from 3 to `stem` channels, `body`, and a classifier that reads `last` channels."""

    def __init__(self, stem: int, last: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
        self.head = nn.Linear(last, 3)

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


@toy("residual", (3, 6, 6), channels=6 + 4)
class Residual(Headed):
    """The two summands share their channels."""

    def __init__(self) -> None:
        super().__init__(6, 6)
        self.inner = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.outer = nn.Sequential(nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6))

    def body(self, x: Tensor) -> Tensor:
        x = x + self.outer(self.inner(x))
        x += 1
        return F.relu(x, inplace=True)


@toy("dense_block", (3, 6, 6), channels=4 + 3 + 3)
class DenseBlock(Headed):
    """Concatenated again and again; what is read twice is one group."""

    def __init__(self) -> None:
        super().__init__(4, 10)
        self.layers = nn.ModuleList([nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(7, 3, 1)])
        self.norm = nn.BatchNorm2d(10)

    def body(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, F.gelu(layer(x))], dim=1)
        return self.norm(x).sigmoid()


@toy("concatenated_twice", (3, 6, 6), channels=4 + 5)
class ConcatenatedTwice(Headed):
    """One channel stands at two positions."""

    def __init__(self) -> None:
        super().__init__(4, 5)
        self.next = nn.Conv2d(8, 5, 3)

    def body(self, x: Tensor) -> Tensor:
        return self.next(torch.cat((x, x.relu()), -3))


@toy("squeeze_excite", (3, 6, 6), channels=6 + 2)
class SqueezeExcite(Headed):
    """Gates follow the channels that they gate."""

    def __init__(self) -> None:
        super().__init__(6, 6)
        self.squeeze = nn.Conv2d(6, 2, 1)
        self.excite = nn.Conv2d(2, 6, 1)

    def body(self, x: Tensor) -> Tensor:
        gate = self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(x, 1))))
        return x * gate.sigmoid()


@toy("gated_product", (3, 6, 6), channels=5)
class GatedProduct(Headed):
    """`x * sigmoid(y)`: a pruned gate is 1/2, not 0."""

    def __init__(self) -> None:
        super().__init__(5, 5)
        self.gate = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.stem(x) * torch.sigmoid(self.gate(x))).mean((2, 3)))


@toy("single_channel_gate", (3, 6, 6), channels=5)
class SingleChannelGate(Headed):
    """A spatial attention map with one channel belongs to all channels: it stays."""

    def __init__(self) -> None:
        super().__init__(5, 5)
        self.gate = nn.Conv2d(5, 1, 3, padding=1)

    def body(self, x: Tensor) -> Tensor:
        return x * self.gate(x).sigmoid()


@toy("channel_shuffle", (3, 6, 6), channels=4 + 4)
class ChannelShuffle(Headed):
    """Split, transform one half, concatenate, shuffle by view: position j of both halves is one class."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())

    def body(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        x = torch.cat([left, self.branch(right)], 1)
        b, c, h, w = x.shape
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


@toy("split_sizes", (3, 6, 6), channels=6 + 4)
class SplitSizes(Headed):
    """Unequal parts, each with a layer of its own."""

    def __init__(self) -> None:
        super().__init__(6, 4)
        self.left = nn.Conv2d(2, 4, 1)
        self.right = nn.Conv2d(4, 4, 1)

    def body(self, x: Tensor) -> Tensor:
        left, right = torch.split(x, [2, 4], dim=1)
        return torch.maximum(self.left(left), self.right(right))


@toy("layer_scale", (3, 6, 6), channels=5)
class LayerScale(Headed):
    """A parameter per channel used directly, a buffer, and a functional norm with parameters of its own."""

    def __init__(self) -> None:
        super().__init__(5, 5)
        self.block = nn.Conv2d(5, 5, 3, padding=1, groups=5)
        self.gamma = nn.Parameter(torch.randn(5, 1, 1))
        self.register_buffer("shift", torch.randn(1, 5, 1, 1))
        self.register_buffer("mean", torch.randn(5))
        self.register_buffer("var", torch.rand(5) + 0.5)
        self.weight = nn.Parameter(torch.rand(5) + 0.5)

    def body(self, x: Tensor) -> Tensor:
        x = x + self.gamma * self.block(x) + self.shift
        return F.dropout(F.batch_norm(x, self.mean, self.var, self.weight, training=self.training), 0.5, self.training)


@toy("option_a_shortcut", (3, 6, 6), channels=2 + 4 + 2)
class OptionAShortcut(Headed):
    """ResNet's shortcut without parameters: every other pixel, two zero channels before and after the four of the stem."""

    def __init__(self) -> None:
        super().__init__(4, 8)
        self.block = nn.Conv2d(4, 8, 3, stride=2, padding=1)

    def body(self, x: Tensor) -> Tensor:
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return F.relu(self.block(x) + shortcut)


@toy("slices_of_channels", (3, 6, 6), channels=7 + 4)
class SlicesOfChannels(Headed):
    """Channels taken by slices, with a step and from the end; nobody reads channel 3, so it is not searched."""

    def __init__(self) -> None:
        super().__init__(8, 4)
        self.first, self.even, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(3, 4, 1)

    def body(self, x: Tensor) -> Tensor:
        return (self.first(x[:, :3]) + self.even(x[:, ::2]) + self.last(x[:, -3:])).relu()
