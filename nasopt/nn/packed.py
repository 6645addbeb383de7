"""A binary convolution for inference: one bit per weight and activation, XNOR and population count on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nasopt.errors import ConfigError
from nasopt.nn.arguments import describe_convolution
from nasopt.nn.binary import BinaryConv2d
from nasopt.ste import signs

_WORD = 64


class PackedBinaryConv2d(nn.Module):
    """`BinaryActivation` and `BinaryConv2d` in one, on bits: `(B, in, H, W) -> (B, out, H', W')`, float32, no gradients.

    It takes real activations or signs: of both it sees the signs. Weights are 64-bit words, one bit per weight; the output
    is that of the float layers to rounding. Batches run one sample after the other, on one thread.

    Raises:
        ConfigError: groups, for which there is no kernel.
    """

    words: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, conv: BinaryConv2d) -> None:
        super().__init__()
        if conv.groups != 1:
            raise ConfigError(
                f"PackedBinaryConv2d: groups={conv.groups}, kernels exist for groups=1 only: leave this layer as it is"
            )
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.kernel_size, self.stride = conv.kernel_size, conv.stride
        self.padding, self.dilation, self.groups = conv.padding, conv.dilation, 1
        weight = conv.weight.detach()
        self.register_buffer("words", pack_weights(weight))
        self.register_buffer("scale", weight.abs().mean().float().reshape(1))
        bias = None if conv.bias is None else conv.bias.detach().float().clone()
        self.register_buffer("bias", bias)
        self.training = conv.training

    def forward(self, x: Tensor) -> Tensor:
        from nasopt.nn import packed_kernels  # numba is imported when bits are first computed with

        _, _, height, width = x.shape
        (pad_h, pad_w), (kernel_h, kernel_w) = self.padding, self.kernel_size
        (stride_h, stride_w), (dilation_h, dilation_w) = self.stride, self.dilation
        out_h = (height + 2 * pad_h - dilation_h * (kernel_h - 1) - 1) // stride_h + 1
        out_w = (width + 2 * pad_w - dilation_w * (kernel_w - 1) - 1) // stride_w + 1
        depth = self.words.shape[1]
        words = np.zeros((x.shape[0], depth, height + 2 * pad_h, width + 2 * pad_w), dtype=np.uint64)
        packed_kernels.pack_signs(x.detach().contiguous().numpy(), words, pad_h, pad_w)
        weight = self.words.numpy().view(np.uint64)
        out = torch.empty(x.shape[0], self.out_channels, out_h, out_w)
        scale = np.float32(self.scale.item())
        bias = np.zeros(self.out_channels, np.float32) if self.bias is None else self.bias.numpy()
        sizes = (stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w, height, width)
        packed_kernels.convolve(words, weight, self.in_channels, sizes, out.numpy(), scale, bias)
        return out

    def extra_repr(self) -> str:
        return describe_convolution(self)


def pack_weights(weight: Tensor) -> Tensor:
    """Signs of weights `(out, in, kh, kw)` as words `(out, ceil(in / 64), kh, kw)`, int64; a bit is 1 where the sign is -1."""
    return pack_bits(signs(weight.detach()) < 0)


def pack_bits(bits: Tensor) -> Tensor:
    """Bools `(out, in, kh, kw)` as words `(out, ceil(in / 64), kh, kw)`, int64."""
    out, channels, kernel_h, kernel_w = bits.shape
    depth = -(-channels // _WORD)
    padded: Any = np.zeros((out, depth * _WORD, kernel_h, kernel_w), dtype=np.uint64)
    padded[:, :channels] = bits.cpu().numpy()
    padded = padded.reshape(out, depth, _WORD, kernel_h, kernel_w)
    shifts = np.arange(_WORD, dtype=np.uint64).reshape(_WORD, 1, 1)
    return torch.from_numpy(np.bitwise_or.reduce(padded << shifts, axis=2).view(np.int64))
