"""`Quantise`: a quantisation point, where an activation is rounded; and what all that has widths in bits shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.checked import checked
from nasopt.nn.grids import ACTIVATION_FRACTIONS, activation_range, best_step, check_widths, step_of
from nasopt.ste import quantise, quantise_mixture

# (position of a width, its weight or None, ...): what of several widths runs.
Active = tuple[Any, ...]


class HasWidths(nn.Module):
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


class Quantise(HasWidths):
    """A quantisation point: rounds an activation to a grid of a learned step; several calls are one tensor class.

    Args:
        widths: bits, ascending.
        signed: whether it may be negative.
        quantizer: `"lsq"`, or `"pact"`: steps learn from what is clipped alone.

    Attributes:
        log_steps: log2 of the step of every width, shape `(widths,)`.
        is_calibrated: whether steps have been set from data.
    """

    _steps_name = "log_steps"

    @checked
    def __init__(self, widths: Sequence[int] = (8,), signed: bool = True, quantizer: str = "lsq") -> None:
        super().__init__()
        self.widths = check_widths(widths, "activations")
        self.signed, self.quantizer = signed, quantizer
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
        return step_of(self.log_steps[width])

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
        dtype, x = x.dtype, exact(x)
        active = self.active(active)
        is_pact = self.quantizer == "pact"
        if len(active) > 1 and (is_pact or torch.compiler.is_compiling()):
            total = torch.stack([self.run(x, None, [one]) for one in active]).sum(0)
        elif len(active) > 1:
            total = self._mix(x, active)
        else:
            ((width, weight, *_),) = active
            low, high = self.range(width)
            step = self.step(width).to(x.dtype)
            scale = self._gradient_scale(x, high)
            total = quantise(x, step, low, high, scale, half_up=True, clipped_only=is_pact)
            total = total if weight is None else total * weight.to(x.dtype)
        # Under autocast operations convert what they take; a model in half precision takes half precision.
        return total if torch.is_autocast_enabled(x.device.type) else total.to(dtype)

    def _mix(self, x: Tensor, active: Sequence[Active]) -> Tensor:
        widths = [width for width, *_ in active]
        ranges = tuple(self.range(width) for width in widths)
        shares = torch.stack([weight.reshape(()) for _, weight, *_ in active])
        scales = tuple(self._gradient_scale(x, high) for _, high in ranges)
        return quantise_mixture(x, step_of(self.log_steps[widths]).to(x.dtype), shares, ranges, scales)

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
        return f"bits={plain_widths(self.widths)}, signed={self.signed}"


def exact(x: Tensor) -> Tensor:
    """In single precision at least: eight bits do not fit into half precision's grids."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _sample(x: Tensor, most: int = 20_000) -> Tensor:
    flat = x.reshape(-1)
    return flat if len(flat) <= most else flat[:: math.ceil(len(flat) / most)]


def plain_widths(widths: tuple[int, ...]) -> int | tuple[int, ...]:
    return widths[0] if len(widths) == 1 else widths
