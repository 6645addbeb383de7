"""Rounded copies of weights with a scale per layer, output channel or kernel, which may itself be rounded."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from nasopt.errors import ConfigError
from nasopt.ste import straight_through
from nasopt.train.angle import Granularity, groups_of


class ScaledLevels(nn.Module):
    """`scale * q(v)` for every group v of a weight, of which q are signs or symmetric integers: same shape as the weight.

    The scale is the best one for its group, `<v, q> / <q, q>`. Gradients go straight through. It is a quantizer of
    `AngleRegularizer`, and a parametrization with which a layer trains in few bits, with or without a search around it:

    ```python
    levels = ScaledLevels(bits=1, granularity="kernel", scale_bits=9)
    nn.utils.parametrize.register_parametrization(conv, "weight", levels)
    levels.bits_per_weight(conv.weight.shape)    # 2.0 for a 3x3 convolution: 1 + 9 / 9
    ```

    Scales of layers and channels go into the factor by which a sum is rounded anyway. **Those of kernels do not**, but for
    depthwise layers: each costs a multiplication at every position, `products_per_position`.

    Source: Guerra, dissertation, ch. 6.

    Args:
        bits: of a weight, 1 to 8; at 1 signs.
        granularity: of the scales; kernels of one tap share that of their channel.
        scale_bits: of a scale, 1 to 16, in steps of the largest of the layer; None: floats.

    Raises:
        ConfigError: an unknown granularity, or widths out of their ranges.
    """

    def __init__(self, bits: int = 1, granularity: Granularity = "channel", scale_bits: int | None = None) -> None:
        super().__init__()
        if granularity not in ("channel", "kernel", "layer"):
            raise ConfigError(f"ScaledLevels: granularity must be channel, kernel or layer, got {granularity!r}")
        for name, value, most in (("bits", bits, 8), ("scale_bits", 16 if scale_bits is None else scale_bits, 16)):
            if type(value) is not int or not 1 <= value <= most:
                raise ConfigError(f"ScaledLevels: {name} must be an int from 1 to {most}, got {value!r}")
        self.bits, self.scale_bits = bits, scale_bits
        self.granularity: Granularity = granularity

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            rows = groups_of(weight, self.granularity)
            integers = self._integers(rows)
            scales = (rows * integers).sum(1) / integers.square().sum(1).clamp(min=1)
            copy = (integers * self._rounded(scales)[:, None]).view(weight.shape)
        return straight_through(copy, weight)

    def _integers(self, rows: Tensor) -> Tensor:
        if self.bits == 1:
            return torch.where(rows >= 0, 1.0, -1.0).to(rows.dtype)
        largest = 2 ** (self.bits - 1) - 1
        step = rows.abs().amax(1, keepdim=True) / largest
        return (rows / step.clamp(min=torch.finfo(rows.dtype).tiny)).round()

    def _rounded(self, scales: Tensor) -> Tensor:
        if self.scale_bits is None:
            return scales
        step = (scales.max() / (2**self.scale_bits - 1)).clamp(min=torch.finfo(scales.dtype).tiny)
        return (scales / step).round() * step

    def bits_per_weight(self, shape: Sequence[int]) -> float:
        """Bits of weights and scales over weights, for a weight of that shape: 1 + 9 / 9 for signs, 3x3, 9 bits."""
        groups = len(groups_of(torch.empty(tuple(shape), device="meta"), self.granularity))
        return self.bits + (32 if self.scale_bits is None else self.scale_bits) * groups / prod(shape)

    def products_per_position(self, shape: Sequence[int]) -> int:
        """Multiplications by scales, at every output position, that no rounding takes over; `(out, in / groups, ...)`."""
        has_kernels = len(shape) > 2 and prod(shape[2:]) > 1 and shape[1] > 1
        return shape[0] * shape[1] if self.granularity == "kernel" and has_kernels else 0

    def extra_repr(self) -> str:
        return f"bits={self.bits}, granularity={self.granularity!r}, scale_bits={self.scale_bits}"
