"""Quantised layers: torch layers whose weights lie on an integer grid, and `Quantise`, where an activation is rounded.

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
    ACTIVATION_FRACTIONS,
    FLOAT_BITS,
    SMALLEST_STEP,
    WEIGHT_FRACTIONS,
    activation_range,
    best_step,
    check_widths,
    to_grid,
    weight_range,
)
from nasopt.ste import quantise, quantise_mixture, signs, straight_through

# (position of a width, its weight or None, ...): what of several widths runs.
Active = tuple[Any, ...]


class _Widths(nn.Module):
    """What has a width in bits, or several, ascending, to choose from."""

    widths: tuple[int, ...]
    # False in a warm-up in floats: values pass as they are.
    is_rounding = True
    _steps_name = "weight_log_steps"

    @property
    def bits(self) -> int:
        """The width that runs alone: the widest."""
        return self.widths[-1]

    @property
    def log2_steps(self) -> Any:
        """The parameter of all its steps."""
        return getattr(self, self._steps_name)

    def keep_width(self, width: int) -> None:
        """Forget all widths but one, by position."""
        steps = self.log2_steps
        setattr(self, self._steps_name, nn.Parameter(steps.detach()[width : width + 1].clone(), steps.requires_grad))
        self.widths = (self.widths[width],)

    def active(self, active: Sequence[Active] | None) -> Sequence[Active]:
        """What runs: as a search says, else the widest."""
        return active if active is not None else [(len(self.widths) - 1, None)]


class Quantise(_Widths):
    """A quantisation point: rounds an activation to a grid of a learned step; several calls are one tensor class.

    Args:
        widths: bits, ascending.
        signed: whether it may be negative.

    Attributes:
        log_steps: log2 of the step of every width, shape `(widths,)`.
        is_calibrated: whether steps have been set from data.
    """

    _steps_name = "log_steps"

    def __init__(self, widths: Sequence[int] = (8,), signed: bool = True) -> None:
        super().__init__()
        self.widths = check_widths(widths, "activations")
        self.signed = signed
        self.log_steps = nn.Parameter(torch.zeros(len(self.widths)))
        self.is_calibrated: Tensor
        self.register_buffer("is_calibrated", torch.zeros((), dtype=torch.bool))
        # While steps are set: values seen, in place of rounding.
        self.samples: list[Tensor] | None = None

    def range(self, width: int) -> tuple[int, int]:
        """Smallest and largest integer of that width, by position."""
        return activation_range(self.widths[width], self.signed)

    def step(self, width: int = -1) -> Tensor:
        """The step of a width, by position, a scalar."""
        return torch.exp2(self.log_steps[width])

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)

    def run(
        self, x: Tensor, mask: Tensor | None = None, active: Sequence[Active] | None = None, of_source: Any = None
    ) -> Tensor:
        """The rounded activation, at the widths that a search has activated."""
        if self.samples is not None:
            self.samples.append(_sample(x.detach()))
        if self.samples is not None or not self.is_rounding:
            return x
        dtype, x = x.dtype, _exact(x)
        active = self.active(active)
        if len(active) > 1 and torch.compiler.is_compiling():
            total = torch.stack([self.run(x, None, [one]) for one in active]).sum(0)
        elif len(active) > 1:
            total = self._mix(x, active)
        else:
            ((width, weight, *_),) = active
            low, high = self.range(width)
            step = self.step(width).to(x.dtype)
            total = quantise(x, step, low, high, self._gradient_scale(x, high), half_up=True)
            total = total if weight is None else total * weight.to(x.dtype)
        # Under autocast operations convert what they take; a model in half precision takes half precision.
        return total if torch.is_autocast_enabled(x.device.type) else total.to(dtype)

    def _mix(self, x: Tensor, active: Sequence[Active]) -> Tensor:
        widths = [width for width, *_ in active]
        ranges = tuple(self.range(width) for width in widths)
        shares = torch.stack([weight.reshape(()) for _, weight, *_ in active])
        scales = tuple(self._gradient_scale(x, high) for _, high in ranges)
        return quantise_mixture(x, torch.exp2(self.log_steps[widths]).to(x.dtype), shares, ranges, scales)

    def _gradient_scale(self, x: Tensor, high: int) -> float:
        return 1 / math.sqrt(max(x[0].numel() if x.dim() else 1, 1) * max(high, 1))

    @torch.no_grad()
    def calibrate(self, values: Tensor) -> None:
        """Set the steps of all widths to those of the least squared error on values, `(n,)`."""
        for width in range(len(self.widths)):
            step = best_step(values.reshape(1, -1), *self.range(width), ACTIVATION_FRACTIONS)
            self.log_steps[width] = step.log2()[0]
        self.is_calibrated.fill_(True)

    def extra_repr(self) -> str:
        return f"bits={_plain(self.widths)}, signed={self.signed}"


class QuantisedWeight(_Widths):
    """What all layers with a quantised weight share; a subclass of the torch layer comes first.

    Attributes:
        weight_log_steps: log2 of the steps, shape `(widths, output channels)`.
        source: the point whose values the layer reads, or None: activations are not rounded. No submodule: the graph holds it.
        norm: the batch norm that follows and is absorbed, or None. No submodule either.
    """

    weight: Any
    bias: Any
    source: Quantise | None
    norm: Any
    output_dim = 0

    def quantise_weights(self, widths: Sequence[int], minmax: bool = False) -> None:
        """Take widths, and steps of the least squared error."""
        self.widths = check_widths(widths, "weights")
        self.minmax = minmax
        # References that are no submodules: a submodule would be stored, moved and named twice.
        self.__dict__.update(source=None, norm=None)
        # By the largest weights: there is nothing to learn.
        self.weight_log_steps = nn.Parameter(self._fitting_steps(), requires_grad=not minmax)

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

    def weight_step(self, width: int = -1) -> Tensor:
        """Steps of a width, by position, shape `(output channels,)`."""
        if self.minmax:
            high = weight_range(self.widths[width])[1]
            return (self._rows(self.weight.detach()).abs().amax(1) / high).clamp(min=SMALLEST_STEP)
        return torch.exp2(self.weight_log_steps[width])

    def quantised_weight(self, active: Sequence[Active] | None = None, mask: Tensor | None = None) -> Tensor:
        """The weight on its grid; a mixture where several widths are active; of masked inputs it is 0."""
        weight = _exact(self.weight)
        total: Any = None if self.is_rounding else weight
        for width, share, *_ in self.active(active) if self.is_rounding else ():
            bits = self.widths[width]
            if bits == FLOAT_BITS:
                rounded = weight
            else:
                rounded = self._round(weight, bits, self.weight_step(width).to(weight.dtype))
            rounded = rounded if share is None else rounded * share.to(weight.dtype)
            total = rounded if total is None else total + rounded
        return total if mask is None else total * mask.to(weight.dtype)

    def _round(self, weight: Tensor, bits: int, step: Tensor) -> Tensor:
        low, high = weight_range(bits)
        spread = self._spread(step)
        if bits == 1:
            inside = weight.clamp(-spread.detach(), spread.detach())
            return straight_through(signs(weight).detach(), inside / spread.detach()) * spread
        scale = 1 / math.sqrt(weight.numel() / weight.shape[self.output_dim] * high)
        turn = self.orientation() if low != -high else None
        if turn is None:
            return quantise(weight, spread, low, high, scale)
        turned = self._spread(turn)
        return quantise(weight * turned, spread, low, high, scale) * turned

    @torch.no_grad()
    def integer_weight(self) -> Tensor:
        """The stored integers: of the oriented weight, at the widest width, int64."""
        weight, step = self.weight.double(), self._spread(self.weight_step().double())
        turn = self.orientation()
        weight = weight if turn is None else weight * self._spread(turn.double())
        if self.bits == 1:  # as in the forward pass, where 0 counts as + before it is turned
            levels = signs(self.weight)
            return (levels if turn is None else levels * self._spread(turn)).long()
        return (weight / step).clamp(*weight_range(self.bits)).round().long()

    def grid(self, active: Sequence[Active] | None, of_source: Sequence[Active] | None) -> Tensor | None:
        """The step of the accumulator, shape `(output channels of the layer,)`; None where there is no single one."""
        own = self.active(active)
        if (
            self.source is None
            or self.source.samples is not None
            or not self.is_rounding
            or len(own) > 1
            or self.widths[own[0][0]] == FLOAT_BITS
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
        return f"{super().extra_repr()}, bits={_plain(self.widths)}"


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


def _exact(x: Tensor) -> Tensor:
    """In single precision at least: eight bits do not fit into half precision's grids."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _sample(x: Tensor, most: int = 20_000) -> Tensor:
    flat = x.reshape(-1)
    return flat if len(flat) <= most else flat[:: math.ceil(len(flat) / most)]


def _plain(widths: tuple[int, ...]) -> int | tuple[int, ...]:
    return widths[0] if len(widths) == 1 else widths
