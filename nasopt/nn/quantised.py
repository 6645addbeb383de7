"""Quantised layers: torch layers whose weights lie on an integer grid. `Quantise` rounds activations (`nasopt.nn.quantise`).

A network of them computes what its integer program computes. Weights have zero point 0 and one learned step per output
channel; activations zero point 0 and one learned step per tensor class, the tensors that share a grid. Biases, and the shifts of
norms, are rounded to the grid of the accumulator whenever statistics are fixed, in the forward pass of eval mode that is, not
only in an integer program. Norms are never folded while a network trains.

A layer may have several widths: a search weighs them. Alone, it runs the widest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.nn.grids import (
    FLOAT_BITS,
    SMALLEST_STEP,
    WEIGHT_FRACTIONS,
    best_step,
    check_widths,
    step_of,
    to_grid,
    weight_range,
    weight_ranges,
)
from nasopt.nn.quantise import Active, HasWidths, Quantise, exact, plain_widths
from nasopt.nn.weight_quantizers import (
    WITHOUT_INTEGERS,
    angle_levels,
    angle_step,
    check_integers,
    dorefa,
    largest_step,
)
from nasopt.ste import quantise, signs, straight_through


class QuantisedWeight(HasWidths):
    """What all layers with a quantised weight share; a subclass of the torch layer comes first.

    Attributes:
        weight_log_steps: log2 of the steps, shape `(widths, output channels)`.
        source: the point whose values the layer reads, or None: activations are not rounded. No submodule: the graph holds it.
        norm: the batch norm that follows and is absorbed, or None. No submodule either.
        channel_bits: width of every output channel, int8 of shape `(output channels,)`; None: all have that of the layer.
    """

    weight: Any
    bias: Any
    source: Quantise | None
    norm: Any
    channel_bits: Tensor | None
    output_dim = 0

    def quantise_weights(self, widths: Sequence[int], quantizer: str = "lsq") -> None:
        """Take widths, and steps of the least squared error; `quantizer`: one of `WEIGHT_QUANTIZERS`."""
        self.widths = check_widths(widths, "weights")
        self.quantizer = quantizer
        # References that are no submodules: a submodule would be stored, moved and named twice.
        self.__dict__.update(source=None, norm=None)
        self.register_buffer("channel_bits", None)
        self.has_signs = 1 in self.widths
        self.weight_log_steps = nn.Parameter(self._fitting_steps(), requires_grad=quantizer == "lsq")

    def keep_widths(self, positions: Sequence[int]) -> None:
        """Forget all widths of every output channel but one, by position."""
        chosen = torch.tensor(positions, device=self.weight_log_steps.device)
        steps = self.weight_log_steps.detach().gather(0, chosen[None])
        self.weight_log_steps = nn.Parameter(steps, self.weight_log_steps.requires_grad)
        bits = torch.tensor(self.widths, device=chosen.device)[chosen]
        self.widths = (int(bits.max()),)
        self.channel_bits = None if bool((bits == bits[0]).all()) else bits.to(torch.int8)

    def _bits_at(self, width: Any) -> Any:
        """Bits of a width by position, or of one position per channel; of a layer whose channels are decided, theirs."""
        if isinstance(width, Tensor):
            return torch.tensor(self.widths, device=width.device)[width]
        return self.widths[width] if self.channel_bits is None else self.channel_bits

    @torch.no_grad()
    def fit_steps(self) -> None:
        """Steps of the least squared error for the weight as it is."""
        self.weight_log_steps.copy_(self._fitting_steps())

    def _fitting_steps(self) -> Tensor:
        rows = self._rows(self.weight.detach())
        found = [
            best_step(rows, *weight_range(bits), WEIGHT_FRACTIONS) if bits > 1 else rows.abs().mean(1)
            for bits in self.widths
        ]
        steps = torch.stack([step.clamp(min=SMALLEST_STEP) for step in found])
        return steps.log2().to(self.weight)

    def _rows(self, weight: Tensor) -> Tensor:
        return weight.transpose(0, self.output_dim).reshape(weight.shape[self.output_dim], -1)

    def _spread(self, per_channel: Tensor) -> Tensor:
        shape = [1] * self.weight.dim()
        shape[self.output_dim] = -1
        return per_channel.reshape(shape)

    def orientation(self) -> Tensor | None:
        """+1 or -1 per output channel: the sign of the norm's scale, in which weights are stored; None: +1 everywhere."""
        if self.norm is None or self.norm.weight is None:
            return None
        return torch.where(self.norm.weight.detach() < 0, -1.0, 1.0).to(self.weight)

    def weight_step(self, width: Any = -1) -> Tensor:
        """Steps of a width, by position (or of one position per channel), shape `(output channels,)`."""
        if isinstance(width, Tensor):
            return step_of(self.weight_log_steps.gather(0, width[None])[0])
        if self.quantizer == "minmax":
            return largest_step(self._rows(self.weight.detach()), self.widths[width])
        if self.quantizer == "apsq":
            return angle_step(self._rows(self.weight.detach()), self.widths[width])
        return step_of(self.weight_log_steps[width])

    def quantised_weight(self, active: Sequence[Active] | None = None, mask: Tensor | None = None) -> Tensor:
        """The weight on its grid; a mixture where several widths are active; of masked inputs it is 0."""
        weight = exact(self.weight)
        total: Any = None if self.is_rounding else weight
        for width, share, *_ in self.active(active) if self.is_rounding else ():
            bits = self._bits_at(width)
            step = self.weight_step(width).to(weight.dtype)
            if isinstance(bits, Tensor):
                rounded = self._round_channels(weight, bits, step)
            else:
                rounded = weight if bits == FLOAT_BITS else self._round(weight, bits, step)
            if share is not None:
                rounded = rounded * (self._spread(share) if share.dim() == 1 else share).to(weight.dtype)
            total = rounded if total is None else total + rounded
        return total if mask is None else total * mask.to(weight.dtype)

    def _round(self, weight: Tensor, bits: int, step: Tensor) -> Tensor:
        low, high = weight_range(bits)
        spread = self._spread(step)
        if self.quantizer == "dorefa":
            return dorefa(weight, bits)
        if self.quantizer == "apsq":
            return straight_through(self._angle_levels(weight, bits) * spread, weight)
        if bits == 1:
            inside = weight.clamp(-spread.detach(), spread.detach())
            return straight_through(signs(weight).detach(), inside / spread.detach()) * spread
        scale = 1 / math.sqrt(weight.numel() / weight.shape[self.output_dim] * high)
        turn = self.orientation() if low != -high else None
        if turn is None:
            return quantise(weight, spread, low, high, scale)
        turned = self._spread(turn)
        return quantise(weight * turned, spread, low, high, scale) * turned

    def _round_channels(self, weight: Tensor, bits: Tensor, step: Tensor) -> Tensor:
        """Every output channel at its own width."""
        low, high = (self._spread(bound).to(weight) for bound in weight_ranges(bits))
        count = weight.numel() / weight.shape[self.output_dim]
        turn, spread = self.orientation(), self._spread(step)
        turned = 1.0 if turn is None else self._spread(turn)
        rounded = quantise(weight * turned, spread, low, high, (count * high).rsqrt()) * turned
        if not self.has_signs:
            return rounded
        return torch.where(self._spread(bits == 1), self._round(weight, 1, step), rounded)

    def _angle_levels(self, weight: Tensor, bits: int) -> Tensor:
        levels = angle_levels(self._rows(weight.detach()), bits)
        return levels.reshape(weight.transpose(0, self.output_dim).shape).transpose(0, self.output_dim)

    @torch.no_grad()
    def integer_weight(self) -> Tensor:
        """The stored integers: of the oriented weight, at the widest width, int64.

        Raises:
            ExportError: its quantizer has none.
        """
        check_integers(self.quantizer)
        weight, step = self.weight.double(), self._spread(self.weight_step().double())
        turn = self.orientation()
        weight = weight if turn is None else weight * self._spread(turn.double())
        if self.quantizer == "apsq" or (self.bits == 1 and self.channel_bits is None):
            # As in the forward pass, where 0 counts as + before it is turned.
            levels = self._angle_levels(self.weight, self.bits)
            return (levels if turn is None else levels * self._spread(turn)).long()
        if self.channel_bits is None:
            return (weight / step).clamp(*weight_range(self.bits)).round().long()
        low, high = (self._spread(bound) for bound in weight_ranges(self.channel_bits))
        integers = (weight / step).clamp(low, high).round()
        levels = signs(self.weight) if turn is None else signs(self.weight) * self._spread(turn)
        return torch.where(self._spread(self.channel_bits == 1), levels, integers).long()

    def grid(self, active: Sequence[Active] | None, of_source: Sequence[Active] | None) -> Tensor | None:
        """The step of the accumulator, shape `(output channels of the layer,)`; None where there is no single one."""
        own = self.active(active)
        if (
            self.source is None
            or self.source.samples is not None
            or not self.is_rounding
            or len(own) > 1
            or (not isinstance(own[0][0], Tensor) and self.widths[own[0][0]] == FLOAT_BITS)
            or self.quantizer in WITHOUT_INTEGERS
        ):
            return None
        read = self.source.active(of_source)
        if len(read) > 1:
            return None
        steps = self.weight_step(own[0][0]) * self.source.step(read[0][0])
        return steps.repeat(self._copies)

    @property
    def _copies(self) -> int:
        return 1

    def rounded_bias(
        self, active: Sequence[Active] | None = None, of_source: Sequence[Active] | None = None
    ) -> Tensor | None:
        """The bias on the accumulator's grid, where no norm follows that takes it over and statistics are fixed."""
        if self.bias is None or self.training or self.norm is not None:
            return self.bias
        grid = self.grid(active, of_source)
        return self.bias if grid is None else to_grid(self.bias, grid)

    def run(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        active: Sequence[Active] | None = None,
        of_source: Sequence[Active] | None = None,
    ) -> Tensor:
        """The layer under a mask on its weight, and with the widths that a search has activated."""
        weight = self.quantised_weight(active, mask)
        bias = self.rounded_bias(active, of_source)
        return self._apply_weight(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    def _apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)

    def extra_repr(self) -> str:
        if self.channel_bits is None:
            return f"{super().extra_repr()}, bits={plain_widths(self.widths)}"
        found = self.channel_bits.unique(return_counts=True)
        return f"{super().extra_repr()}, bits={dict(zip(*(x.tolist() for x in found)))}"


class QuantLinear(QuantisedWeight, nn.Linear):
    """`nn.Linear` with a quantised weight."""

    def _apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class _QuantConv(QuantisedWeight):
    def _apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)  # type: ignore[operator, no-any-return]


class QuantConv1d(_QuantConv, nn.Conv1d):
    """`nn.Conv1d` with a quantised weight."""


class QuantConv2d(_QuantConv, nn.Conv2d):
    """`nn.Conv2d` with a quantised weight."""


class QuantConv3d(_QuantConv, nn.Conv3d):
    """`nn.Conv3d` with a quantised weight."""


class _QuantConvTranspose(QuantisedWeight):
    output_dim = 1
    groups: int

    @property
    def _copies(self) -> int:
        return self.groups

    def _apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        function: Any = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[weight.dim() - 2]
        own: Any = self
        return function(x, weight, bias, own.stride, own.padding, own.output_padding, own.groups, own.dilation)


class QuantConvTranspose1d(_QuantConvTranspose, nn.ConvTranspose1d):  # type: ignore[misc]
    """`nn.ConvTranspose1d` with a quantised weight."""


class QuantConvTranspose2d(_QuantConvTranspose, nn.ConvTranspose2d):  # type: ignore[misc]
    """`nn.ConvTranspose2d` with a quantised weight."""


class QuantConvTranspose3d(_QuantConvTranspose, nn.ConvTranspose3d):  # type: ignore[misc]
    """`nn.ConvTranspose3d` with a quantised weight."""
