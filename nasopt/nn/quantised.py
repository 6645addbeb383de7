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

from nasopt.errors import ConfigError
from nasopt.ste import quantise, signs, straight_through

FLOAT_BITS = 32
"""The width of what is not quantised."""
WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 16)
"""Widths that quantizers have."""
# (position of a width, its weight or None, ...): what of several widths runs.
Active = tuple[Any, ...]
# Of a channel of zeros, whose step is nothing to learn from.
SMALLEST_STEP = 2.0**-20
# Fractions of the largest value that are tried as clipping values.
_WEIGHT_GRID = torch.linspace(0.15, 1, 40)
_ACTIVATION_GRID = torch.linspace(0.2, 1, 33)


def weight_range(bits: int) -> tuple[int, int]:
    """Smallest and largest integer of a weight: narrow and symmetric, full at 2 bits; at 1 bit the values are the signs."""
    return (-2, 1) if bits == 2 else (-1, 1) if bits == 1 else (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)


def activation_range(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest integer of an activation."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def best_step(x: Tensor, low: int, high: int, fractions: Tensor) -> Tensor:
    """Steps of the least squared error among fractions of the largest one; `x`: `(channels, values)`, result `(channels,)`."""
    x = x.detach().double()
    largest = x.abs().amax(1)
    candidates = largest[:, None] * fractions.to(x) / high  # (channels, fractions)
    errors = torch.stack(
        [
            (x - (x / step[:, None].clamp(min=SMALLEST_STEP)).clamp(low, high).round() * step[:, None]).square().sum(1)
            for step in candidates.unbind(1)
        ],
        1,
    )
    best = candidates.gather(1, errors.argmin(1, keepdim=True)).squeeze(1)
    return torch.where(largest > 0, best, SMALLEST_STEP).clamp(min=SMALLEST_STEP)


def check_widths(widths: Sequence[int], where: str) -> tuple[int, ...]:
    """Widths in ascending order.

    Raises:
        ConfigError: there are none, one twice, or one that no quantizer has.
    """
    found = tuple(sorted(widths))
    for bits in found:
        if isinstance(bits, bool) or bits not in (*WIDTHS, FLOAT_BITS):
            raise ConfigError(f"{where}: no quantizer has {bits!r} bits. Widths are {', '.join(map(str, WIDTHS))}, or 32: float")
    if not found or len(set(found)) != len(found):
        raise ConfigError(f"{where}: {widths!r} must name at least one width, each once")
    return found


class _Widths(nn.Module):
    """What has a width in bits, or several, ascending, to choose from."""

    widths: tuple[int, ...]

    @property
    def bits(self) -> int:
        """The width that runs alone: the widest."""
        return self.widths[-1]

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

    def __init__(self, widths: Sequence[int] = (8,), signed: bool = True) -> None:
        super().__init__()
        self.widths = check_widths(widths, "activations")
        self.signed = signed
        self.log_steps = nn.Parameter(torch.zeros(len(self.widths)))
        self.register_buffer("is_calibrated", torch.zeros((), dtype=torch.bool))
        # While steps are set: values seen, in place of rounding.
        self.samples: list[Tensor] | None = None

    def range(self, width: int) -> tuple[int, int]:
        """Smallest and largest integer of that width, by position."""
        return activation_range(self.widths[width], self.signed)

    def step(self, width: int = -1) -> Tensor:
        """The step of a width, by position, a scalar."""
        return torch.exp2(self.log_steps[width])

    def forward(self, x: Tensor, active: Sequence[Active] | None = None) -> Tensor:
        if self.samples is not None:
            self.samples.append(_sample(x.detach()))
            return x
        x = _exact(x)
        total: Any = None
        for width, weight, *_ in self.active(active):
            low, high = self.range(width)
            scale = 1 / math.sqrt(max(x[0].numel() if x.dim() else 1, 1) * high)
            rounded = quantise(x, self.step(width).to(x.dtype), low, high, scale, half_up=True)
            rounded = rounded if weight is None else rounded * weight.to(x.dtype)
            total = rounded if total is None else total + rounded
        return total

    @torch.no_grad()
    def calibrate(self, values: Tensor) -> None:
        """Set the steps of all widths to those of the least squared error on values, `(n,)`."""
        for width in range(len(self.widths)):
            step = best_step(values.reshape(1, -1), *self.range(width), _ACTIVATION_GRID)
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

    weight: nn.Parameter
    bias: nn.Parameter | None
    source: Quantise | None
    norm: QuantBatchNorm | None
    output_dim = 0

    def quantise_weights(self, widths: Sequence[int], minmax: bool = False) -> None:
        """Take widths, and steps of the least squared error."""
        self.widths = check_widths(widths, "weights")
        self.minmax = minmax
        # References that are no submodules: a submodule would be stored, moved and named twice.
        self.__dict__.update(source=None, norm=None)
        rows = self._rows(self.weight.detach())
        steps = [best_step(rows, *weight_range(bits), _WEIGHT_GRID) if bits > 1 else rows.abs().mean(1) for bits in self.widths]
        steps = torch.stack([step.clamp(min=SMALLEST_STEP) for step in steps])
        self.weight_log_steps = nn.Parameter(steps.log2().to(self.weight))

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

    def weight_step(self, width: int = -1, mask: Tensor | None = None) -> Tensor:
        """Steps of a width, by position, shape `(output channels,)`."""
        if self.minmax:
            weight = self.weight.detach() if mask is None else self.weight.detach() * mask
            high = weight_range(self.widths[width])[1]
            return (self._rows(weight).abs().amax(1) / high).clamp(min=SMALLEST_STEP)
        return torch.exp2(self.weight_log_steps[width])

    def quantised_weight(self, active: Sequence[Active] | None = None, mask: Tensor | None = None) -> Tensor:
        """The weight on its grid; a mixture where several widths are active; of masked inputs it is 0."""
        weight = _exact(self.weight)
        total: Any = None
        for width, share, *_ in self.active(active):
            bits = self.widths[width]
            if bits == FLOAT_BITS:
                rounded = weight
            else:
                rounded = self._round(weight, bits, self.weight_step(width, mask).to(weight.dtype))
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
        if self.bits == 1:
            return signs(self.weight if turn is None else self.weight * self._spread(turn)).long()
        return (weight / step).clamp(*weight_range(self.bits)).round().long()

    def grid(self, active: Sequence[Active] | None, of_source: Sequence[Active] | None, mask: Tensor | None = None) -> Tensor | None:
        """The step of the accumulator, shape `(output channels of the layer,)`; None where there is no single one."""
        own = self.active(active)
        if self.source is None or len(own) > 1 or self.widths[own[0][0]] == FLOAT_BITS:
            return None
        read = self.source.active(of_source)
        if len(read) > 1:
            return None
        steps = self.weight_step(own[0][0], mask) * self.source.step(read[0][0])
        return steps.repeat(self._copies)

    @property
    def _copies(self) -> int:
        return 1

    def rounded_bias(self, grid: Tensor | None) -> Tensor | None:
        """The bias on the accumulator's grid, where no norm follows that takes it over and statistics are fixed."""
        if self.bias is None or grid is None or self.training or self.norm is not None:
            return self.bias
        return to_grid(self.bias, grid)

    def run(
        self, x: Tensor, mask: Tensor | None = None, active: Sequence[Active] | None = None, of_source: Sequence[Active] | None = None
    ) -> Tensor:
        """The layer under a mask on its weight, and with the widths that a search has activated."""
        weight = self.quantised_weight(active, mask)
        grid = None if self.training or self.bias is None else self.grid(active, of_source, mask)
        bias = self.rounded_bias(grid)
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

    def orientation(self) -> Tensor | None:
        # Groups share rows of the weight, so one sign would have to serve several norms.
        return None

    def _apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        function: Any = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[weight.dim() - 2]
        own: Any = self
        return function(x, weight, bias, own.stride, own.padding, own.output_padding, own.groups, own.dilation)


class QuantConvTranspose1d(_QuantConvTranspose, nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` with a quantised weight."""


class QuantConvTranspose2d(_QuantConvTranspose, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` with a quantised weight."""


class QuantConvTranspose3d(_QuantConvTranspose, nn.ConvTranspose3d):
    """`nn.ConvTranspose3d` with a quantised weight."""


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
        assert self.running_mean is not None and self.running_var is not None
        scale = torch.rsqrt(self.running_var + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        bias = None if self.layer is None else self.layer.bias
        shift = -self.running_mean if bias is None else bias - self.running_mean
        shift = scale * shift
        return scale, shift if self.bias is None else shift + self.bias

    def run(
        self,
        x: Tensor,
        active: Sequence[Active] | None = None,
        of_source: Sequence[Active] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The norm, behind a layer with the widths that a search has activated."""
        if self.training or self.running_mean is None:
            return super().forward(x)
        scale, shift = self.scale_and_shift()
        if self.layer is not None:
            grid = self.layer.grid(active, of_source, mask)
            # The layer has added its bias already.
            bias = self.layer.bias
        else:
            read = [] if self.source is None else self.source.active(of_source)
            grid = self.source.step(read[0][0]) if self.source is not None and len(read) == 1 else None
            bias = None
        if grid is not None:
            grid = grid * scale.abs()
            shift = torch.where(grid > 0, to_grid(shift, grid.clamp(min=torch.finfo(grid.dtype).tiny)), shift)
        if bias is not None:
            shift = shift - scale * bias
        spread = (1, -1, *(1,) * (x.dim() - 2))
        return x * scale.to(x.dtype).reshape(spread) + shift.to(x.dtype).reshape(spread)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def to_grid(value: Tensor, grid: Tensor) -> Tensor:
    """The nearest multiples of a grid, straight-through."""
    return value + (torch.round(value / grid) * grid - value).detach()


def _exact(x: Tensor) -> Tensor:
    """In single precision at least: eight bits do not fit into half precision's grids."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _sample(x: Tensor, most: int = 20_000) -> Tensor:
    flat = x.reshape(-1)
    return flat if len(flat) <= most else flat[:: math.ceil(len(flat) / most)]


def _plain(widths: tuple[int, ...]) -> int | tuple[int, ...]:
    return widths[0] if len(widths) == 1 else widths
