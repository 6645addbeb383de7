"""Layers with one-bit weights and activations, and the full-precision layers that stand for them while pre-training."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.checked import checked
from nasopt.errors import ConfigError
from nasopt.nn.arguments import Pair, check_groups, check_padding, check_positive, describe_convolution, pair
from nasopt.ste import binary_sign, binary_weight


class BinaryActivation(nn.Module):
    """`sign(x)` with sign(0) = +1, any shape. Backward slope: 2 + 2x on [-1, 0), 2 - 2x on [0, 1), else 0.

    Source: Liu et al., "Bi-Real Net", ECCV 2018.
    """

    def forward(self, x: Tensor) -> Tensor:
        return binary_sign(x)


class BinaryConv2d(nn.Module):
    """A 2-D convolution with the weights `s sign(W)`, `s = mean |W|`: `(B, in, H, W) -> (B, out, H', W')`.

    Real weights are kept for training; their gradient is that of the binary ones times s. Deployed, a weight takes one
    bit. Put a `BinaryActivation` before it to make the activations binary, too: only then does it cost 1/64 of a MAC
    per product. Padding adds zeros, which are neither +1 nor -1. It is no subclass of `nn.Conv2d`, because what one may
    do to a real convolution (fuse a norm, prune a channel, round weights) is wrong for it.

    Source: Rastegari et al., "XNOR-Net", ECCV 2016, with one scale per layer.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as of `nn.Conv2d`.
        bias: whether to add a real bias per output channel; a norm that follows makes it superfluous.

    Raises:
        ConfigError: sizes below 1, channels that are not divisible by `groups`.
    """

    @checked
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_groups("BinaryConv2d", in_channels, out_channels, groups)
        check_positive("BinaryConv2d", kernel_size=kernel_size, stride=stride, dilation=dilation)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = pair(kernel_size), pair(stride)
        self.padding, self.dilation = check_padding("BinaryConv2d", padding), pair(dilation)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, bias: bool = True) -> BinaryConv2d:
        """The binary convolution with the real weights of `conv` (copied); `bias=False` leaves its bias out.

        Raises:
            ConfigError: the padding of `conv` is not made of equal zeros on both sides.
        """
        padding = symmetric_padding(conv)
        keep_bias = bias and conv.bias is not None
        like: dict[str, Any] = {"device": conv.weight.device, "dtype": conv.weight.dtype}
        sizes: Any = (conv.kernel_size, conv.stride, padding, conv.dilation, conv.groups, keep_bias)
        binary = cls(conv.in_channels, conv.out_channels, *sizes, **like)
        with torch.no_grad():
            binary.weight.copy_(conv.weight)
            if binary.bias is not None and conv.bias is not None:
                binary.bias.copy_(conv.bias)
        binary.weight.requires_grad_(conv.weight.requires_grad)
        return binary.train(conv.training)

    def reset_parameters(self) -> None:
        """Real weights as those of `nn.Conv2d`: uniform within 1 / sqrt(fan in)."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        weight = binary_weight(self.weight)
        if self.training and x.device.type == "cpu" and self._has_phases(x):
            return self._by_phases(x, weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def _has_phases(self, x: Tensor) -> bool:
        same = all(p == d * (k // 2) and k % 2 for p, d, k in zip(self.padding, self.dilation, self.kernel_size))
        whole = all(size % d == 0 for size, d in zip(x.shape[2:], self.dilation))
        return same and whole and min(self.kernel_size) > 3 and min(self.dilation) > 1 and self.stride == (1, 1)

    def _by_phases(self, x: Tensor, weight: Tensor) -> Tensor:
        """A dilated convolution is a plain one on every phase of its input; with large kernels that takes half the time."""
        (batch, _, height, width), (d0, d1) = x.shape, self.dilation
        phases = x.reshape(batch, -1, height // d0, d0, width // d1, d1).permute(3, 5, 0, 1, 2, 4).flatten(0, 2)
        padding = (self.padding[0] // d0, self.padding[1] // d1)
        y = F.conv2d(phases, weight, self.bias, 1, padding, 1, self.groups)
        y = y.view(d0, d1, batch, -1, height // d0, width // d1)
        return y.permute(2, 3, 4, 0, 5, 1).reshape(batch, -1, height, width)

    def extra_repr(self) -> str:
        return describe_convolution(self)


class TwinActivation(nn.Tanh):
    """Full-precision stand-in for `BinaryActivation`: tanh. `binarize` turns it back."""


class TwinConv2d(nn.Conv2d):
    """Full-precision stand-in for `BinaryConv2d`: a convolution followed by a ReLU. `binarize` turns it back."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


def symmetric_padding(conv: nn.Conv2d) -> tuple[int, int]:
    """Zeros added on each side along height and width.

    Raises:
        ConfigError: the padding is not made of zeros, or its two sides differ.
    """
    if conv.padding_mode != "zeros":
        raise ConfigError(
            f"a convolution with padding_mode={conv.padding_mode!r} cannot be binarised: use 'zeros', or leave it out"
        )
    if not isinstance(conv.padding, str):
        return conv.padding[0], conv.padding[1]
    total = [0 if conv.padding == "valid" else d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size)]
    if any(t % 2 for t in total):
        raise ConfigError(
            f"a convolution with kernel {conv.kernel_size} and padding='same' pads its two sides differently, and cannot "
            "be binarised: give it an odd kernel, or a padding in numbers"
        )
    return total[0] // 2, total[1] // 2
