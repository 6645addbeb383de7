"""REAF convolutions: every group of output channels reads a combination of groups of input channels of its own."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.checked import checked
from nasopt.errors import ConfigError
from nasopt.nn.arguments import Pair, check_groups, check_padding, check_positive, describe_convolution, pair


class ReafConv2d(nn.Module):
    """A convolution whose output groups each read another subset of the input groups: `(B, in, H, W) -> (B, out, H', W')`.

    Input channels form `groups` groups; the l-th of the `C(groups, merge)` output groups reads the l-th subset of
    `merge` of them, in lexicographic order. Equal to a dense convolution whose weights are zero elsewhere, with
    `merge / groups` of its weights and MACs. `merge = 1` is a grouped convolution, `merge = groups` a dense one.

    Source: Zhu Baozhou et al., "REAF: Reducing Approximation of Channels by Reducing Feature Reuse Within Convolution",
    IEEE Access 2020, which recommends `merge = groups - 1`; its own best row is 6-1-6, a grouped convolution.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias: as of `nn.Conv2d`.
        groups, merge: of the input, and how many of them one output group reads.

    Raises:
        ConfigError: `merge` is not in 1 to `groups`, or channels that cannot be divided into the groups.
    """

    @checked
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        groups: int,
        merge: int,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        bias: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_positive("ReafConv2d", groups=groups, merge=merge)
        if merge > groups:
            raise ConfigError(f"ReafConv2d: merge={merge} exceeds groups={groups}: merge at most all of them")
        count = math.comb(groups, merge)
        if in_channels % groups or out_channels % count or min(in_channels, out_channels) < 1:
            raise ConfigError(
                f"ReafConv2d {groups}-{merge}-{count}: {in_channels} input channels must be a multiple of {groups} and "
                f"{out_channels} output channels one of {count}, the number of ways to choose {merge} of {groups} groups"
            )
        self.in_channels, self.out_channels, self.groups, self.merge = in_channels, out_channels, groups, merge
        self.kernel_size, self.stride, self.dilation = pair(kernel_size), pair(stride), pair(dilation)
        self.padding = check_padding("ReafConv2d", padding)
        check_positive("ReafConv2d", kernel_size=self.kernel_size, stride=self.stride, dilation=self.dilation)
        shape = (out_channels, in_channels // groups * merge, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As `nn.Conv2d`: uniform within 1 / sqrt(fan in)."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    @property
    def subsets(self) -> list[tuple[int, ...]]:
        """Input groups that every output group reads."""
        return list(itertools.combinations(range(self.groups), self.merge))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, self.weight)

    def run(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer with another weight: its groups side by side, then one grouped convolution."""
        sizes = (self.stride, self.padding, self.dilation)
        parts = x.unflatten(1, (self.groups, -1))
        read = torch.cat([parts[:, group] for subset in self.subsets for group in subset], 1)
        return F.conv2d(read, weight, self.bias, *sizes, len(self.subsets))

    def dense_weight(self) -> Tensor:
        """The weight `(out, in, K, K)` of the dense convolution that computes the same."""
        size = self.in_channels // self.groups
        rows = self.weight.unflatten(0, (len(self.subsets), -1)).unflatten(2, (self.merge, size))
        dense = rows.new_zeros(*rows.shape[:2], self.groups, size, *self.kernel_size)
        for index, subset in enumerate(self.subsets):
            dense[index, :, list(subset)] = rows[index]
        return dense.flatten(2, 3).flatten(0, 1)

    def extra_repr(self) -> str:
        return describe_convolution(self) + f", merge={self.merge}"


class ReafPlus(nn.Module):
    """Norm, ReLU and convolution, with a norm and a ReLU of its own for every group of output channels.

    `(B, in, H, W) -> (B, out, H', W')`; it stands in the place of a batch norm, a ReLU and the convolution that follows.

    Source: as of `ReafConv2d`, where it is called REAF+; two groups there, before the last convolution of a bottleneck.

    Raises:
        ConfigError: output channels that cannot be divided into `groups`.
    """

    @checked
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair = 1,
        stride: Pair = 1,
        padding: Pair = 0,
        groups: int = 2,
        bias: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_positive("ReafPlus", kernel_size=kernel_size, stride=stride, groups=groups)
        check_padding("ReafPlus", padding)
        check_groups("ReafPlus", in_channels * groups, out_channels, groups)
        self.in_channels, self.out_channels = in_channels, out_channels
        like: dict[str, Any] = {"device": device, "dtype": dtype}

        def one() -> nn.Sequential:
            conv = nn.Conv2d(in_channels, out_channels // groups, kernel_size, stride, padding, bias=bias, **like)
            return nn.Sequential(nn.BatchNorm2d(in_channels, **like), nn.ReLU(), conv)

        self.parts = nn.ModuleList(one() for _ in range(groups))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], 1)
