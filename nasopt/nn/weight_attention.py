"""Weight attention: a convolution whose weights are scaled for every sample by what the sample holds."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.checked import checked
from nasopt.nn.arguments import Pair, check_groups, check_padding, check_positive, describe_convolution, pair


class AWConv2d(nn.Module):
    """A convolution with the weights `K + A(x) * K`, other ones for every sample: `(B, in, H, W) -> (B, out, H', W')`.

    `A(x)`, `(B, out, K, K)`, is the same for all input channels: adaptive average pooling to the size of the kernel, a
    1x1 convolution to `out / reduction` channels (at least 1), norm, ReLU, a 1x1 convolution to `out`, norm, sigmoid.
    It has `out^2 / r + in out / r + 2 out (1 / r + 1)` more weights than the convolution.

    Source: Zhu Baozhou et al., "An Attention Module for Convolutional Neural Networks", 2021, with r = 16 and one
    attention for all input channels, its recommended form.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, bias: as of `nn.Conv2d`.
        reduction: r, of the channels between the two 1x1 convolutions.

    Raises:
        ConfigError: a number below 1.
    """

    # Why no file format takes this layer, and what runs it: `nasopt.export` says so.
    file_refusal = (
        "its weights change with every sample, so they cannot be stored, and int8 scales of weights cannot be fixed: run the "
        "network in PyTorch, or put a plain convolution there"
    )

    @checked
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        bias: bool = False,
        reduction: int = 16,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_groups("AWConv2d", in_channels, out_channels, 1)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = pair(kernel_size), pair(stride)
        self.padding = check_padding("AWConv2d", padding)
        check_positive("AWConv2d", kernel_size=self.kernel_size, stride=self.stride, reduction=reduction)
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        shape = (out_channels, in_channels, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, **like))
        self.bias = nn.Parameter(torch.empty(out_channels, **like)) if bias else None
        hidden = max(out_channels // reduction, 1)
        self.squeeze = nn.Conv2d(in_channels, hidden, 1, bias=False, **like)
        self.norm1 = nn.BatchNorm2d(hidden, **like)
        self.excite = nn.Conv2d(hidden, out_channels, 1, bias=False, **like)
        self.norm2 = nn.BatchNorm2d(out_channels, **like)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As `nn.Conv2d`: uniform within 1 / sqrt(fan in)."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def attention(self, x: Tensor) -> Tensor:
        """A: `(B, out, K, K)`, in (0, 1)."""
        pooled = F.adaptive_avg_pool2d(x, self.kernel_size)
        return self.norm2(self.excite(self.norm1(self.squeeze(pooled)).relu())).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        weight = self.weight * (1 + self.attention(x).unsqueeze(2))  # (B, out, in, K, K)
        bias = None if self.bias is None else self.bias.repeat(batch)
        # One group per sample.
        y = F.conv2d(x.flatten(0, 1).unsqueeze(0), weight.flatten(0, 1), bias, self.stride, self.padding, 1, batch)
        return y.view(batch, self.out_channels, *y.shape[2:])

    def extra_repr(self) -> str:
        return describe_convolution(self)
