"""Layers without weights on the edges of a found cell: its poolings, and what aligns two nodes of different shape."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.checked import checked
from nasopt.errors import ConfigError


class CellPool2d(nn.Module):
    """3x3 pooling with stride 1 that keeps the size: `(B, C, H, W) -> (B, C, H, W)`.

    A window at the border takes only what lies inside. Unlike a seed's own poolings, it has a price in `ops`, because a
    search chose to add it.

    Raises:
        ConfigError: an unknown kind.
    """

    @checked
    def __init__(self, kind: Literal["max", "average"]) -> None:
        super().__init__()
        if kind not in ("max", "average"):
            raise ConfigError(f"CellPool2d: kind must be 'max' or 'average', got {kind!r}")
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        # In training on a CPU torch's poolings take two to three times as long as a binary 3x3 convolution.
        if self.training and x.device.type == "cpu":
            return _max_pool(x) if self.kind == "max" else _average_pool(x)
        if self.kind == "max":
            return F.max_pool2d(x, 3, 1, 1)
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    def extra_repr(self) -> str:
        return repr(self.kind)


def _max_pool(x: Tensor) -> Tensor:
    """The largest of every window, found in the memory layout that is quick to search, taken in the given one."""
    with torch.no_grad():
        _, where = F.max_pool2d(x.contiguous(memory_format=torch.channels_last), 3, 1, 1, return_indices=True)
    return x.flatten(2).gather(2, where.flatten(2)).view(x.shape)


def _average_pool(x: Tensor) -> Tensor:
    """The sum over every window, a convolution per channel, by the number of its values inside."""
    ones = x.new_ones(x.shape[1], 1, 3, 3)
    counts = F.conv2d(x.new_ones(1, 1, *x.shape[2:]), ones[:1], padding=1)
    return F.conv2d(x, ones, padding=1, groups=x.shape[1]) / counts


class Zero(nn.Module):
    """No connection: zeros, `(B, ...) -> (B, *shape)`. A branch of a `SuperNetModule` that costs nothing and is never kept.

    Args:
        shape: of the result, without the batch dimension.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), *self.shape)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.shape))


class Align2d(nn.Module):
    """Another number of channels and a smaller size, without weights: `(B, C, H, W) -> (B, channels, *size)`.

    Averages over windows to the new size; repeats the channels in order, or drops the last ones, to the new number.
    """

    @checked
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.channels, self.size = channels, (int(size[0]), int(size[1]))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != self.size:
            x = F.adaptive_avg_pool2d(x, self.size)
        if x.shape[1] < self.channels:
            x = x.repeat(1, -(-self.channels // x.shape[1]), 1, 1)
        return x if x.shape[1] == self.channels else x[:, : self.channels]

    def extra_repr(self) -> str:
        return f"channels={self.channels}, size={self.size}"
