"""Piecewise convolutions for inference: one bit per weight and level, AND and population count on the CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from nasopt.errors import ConfigError
from nasopt.nn.arguments import describe_convolution
from nasopt.nn.packed import pack_bits
from nasopt.nn.piecewise import PAActivation, PAConv2d


class PackedPAConv2d(nn.Module):
    """`PAConv2d` on bits: `(B, in, H, W) -> (B, out, H', W')`, float32, no gradients.

    It takes what a `PAActivation` gives, values on the levels of that one, and makes N planes of bits of them; each meets each of
    the M planes of weights. Outputs are those of the float layer to rounding.

    Raises:
        ConfigError: groups, for which there is no kernel.
    """

    words: Tensor
    factors: Tensor
    values: Tensor
    bias: Tensor

    def __init__(self, conv: PAConv2d, before: PAActivation) -> None:
        super().__init__()
        if conv.groups != 1:
            raise ConfigError(
                f"PackedPAConv2d: groups={conv.groups}, kernels exist for groups=1 only: leave this layer as it is"
            )
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride = conv.kernel_size, conv.stride
        self.padding, self.dilation, self.groups = conv.padding, conv.dilation, 1
        alpha, bases = conv.bases()
        beta = before.values.detach().float()
        self.register_buffer("words", torch.stack([pack_bits(base) for base in bases], 1))  # (out, M, words, kh, kw)
        self.register_buffer("factors", alpha.double()[:, None] * beta.double()[None, :])  # alpha_i beta_j
        self.register_buffer("values", beta)
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach().float().clone())
        self.training = conv.training

    def forward(self, x: Tensor) -> Tensor:
        from nasopt.nn import packed_kernels  # numba is imported when bits are first computed with

        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size)]
        size = [n + 2 * p for n, p in zip(x.shape[2:], self.padding)]
        sizes = [(n - r) // s + 1 for n, r, s in zip(size, reach, self.stride)]
        planes = np.zeros((x.shape[0], len(self.values), self.words.shape[2], *size), dtype=np.uint64)
        packed_kernels.pack_levels(x.detach().contiguous().numpy(), self.values.numpy(), planes, *self.padding)
        out = torch.empty(x.shape[0], self.out_channels, *sizes)
        words, factors = self.words.numpy().view(np.uint64), self.factors.numpy()
        packed_kernels.convolve_levels(planes, words, factors, (*self.stride, *self.dilation), out.numpy())
        return out if self.bias is None else out + self.bias.view(1, -1, 1, 1)

    def extra_repr(self) -> str:
        return f"{describe_convolution(self)}, levels={tuple(self.factors.shape)}"
