"""`QuantBatchNorm`: a batch norm whose shift lies on the grid of integers while its statistics are fixed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nasopt.nn.grids import to_grid
from nasopt.nn.quantise import Active, Quantise
from nasopt.nn.quantised import QuantisedWeight

# In steps of the scaled integers.
LARGEST_SHIFT = 2.0**30


class QuantBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A batch norm of any rank whose shift lies on the accumulator's grid while its statistics are fixed.

    Attributes:
        layer: the quantised layer that absorbs it in an integer program; None: it is an affine map of the integers that
            `source` made.
        source: see `layer`.
    """

    layer: QuantisedWeight | None
    source: Quantise | None

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """G and B of `G z + B`, in eval mode, `(channels,)`; B has the bias of the absorbing layer in it."""
        mean, var = self.running_mean, self.running_var
        assert mean is not None
        assert var is not None
        scale = torch.rsqrt(var + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        bias = None if self.layer is None else self.layer.bias
        shift = -mean if bias is None else bias - mean
        shift = scale * shift
        return scale, shift if self.bias is None else shift + self.bias

    def grid(self, active: Sequence[Active] | None = None, of_source: Sequence[Active] | None = None) -> Tensor | None:
        """The step of what it scales; None where there is no single one."""
        if self.layer is not None:
            return self.layer.grid(active, of_source)
        if self.source is None or self.source.samples is not None or not self.source.is_rounding:
            return None
        read = self.source.active(of_source)
        return self.source.step(read[0][0]) if len(read) == 1 else None

    def folded(self, grid: Tensor | None) -> tuple[Tensor, Tensor]:
        """As `scale_and_shift`, B on the grid of the scaled integers.

        A scale so small that B has more than 30 bits there is 0: the channel is a constant.
        """
        scale, shift = self.scale_and_shift()
        if grid is None:
            return scale, shift
        scale = torch.where(shift.abs() > LARGEST_SHIFT * grid * scale.abs(), 0.0, scale)
        own = grid * scale.abs()
        return scale, torch.where(own > 0, to_grid(shift, own.clamp(min=torch.finfo(own.dtype).tiny)), shift)

    def run(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        active: Sequence[Active] | None = None,
        of_source: Sequence[Active] | None = None,
    ) -> Tensor:
        """The norm, behind a layer with the widths that a search has activated."""
        if self.training or self.running_mean is None:
            return super().forward(x)
        grid = self.grid(active, of_source)
        scale, shift = self.folded(grid)
        # The layer has added its bias already.
        bias = None if self.layer is None else self.layer.bias
        if bias is not None:
            shift = shift - scale * bias
        spread = (1, -1, *(1,) * (x.dim() - 2))
        return x * scale.to(x.dtype).reshape(spread) + shift.to(x.dtype).reshape(spread)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)
