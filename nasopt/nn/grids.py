"""Integer grids: the range of every width, steps of the least squared error, rounding to the grid of an accumulator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nasopt.errors import ConfigError

FLOAT_BITS = 32
"""The width of what is not quantised."""
WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 16)
"""Widths that quantizers have."""
# Of a channel of zeros, whose step is nothing to learn from.
SMALLEST_STEP = 2.0**-20
# Of log2 of a step that learns: where training diverges, a step becomes tiny, but never 0.
_LOWEST = -64.0
# Fractions of the largest value that are tried as clipping values.
WEIGHT_FRACTIONS = torch.linspace(0.15, 1, 40)
ACTIVATION_FRACTIONS = torch.linspace(0.2, 1, 33)


def step_of(log2_step: Tensor) -> Tensor:
    """Steps from their logarithms."""
    return torch.exp2(log2_step.clamp(min=_LOWEST))


def weight_range(bits: int) -> tuple[int, int]:
    """Smallest and largest integer of a weight: narrow and symmetric, full at 2 bits; at 1 bit the values are the signs."""
    return (-2, 1) if bits == 2 else (-1, 1) if bits == 1 else (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)


def weight_ranges(bits: Tensor) -> tuple[Tensor, Tensor]:
    """`weight_range` of many widths, up to 8 bits, in double precision."""
    table = torch.tensor([(0, 0), *map(weight_range, range(1, 9))], dtype=torch.float64, device=bits.device)
    low, high = table[bits.long()].unbind(1)
    return low, high


def activation_range(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest integer of an activation."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def best_step(x: Tensor, low: int, high: int, fractions: Tensor) -> Tensor:
    """Steps of the least squared error among fractions of the largest one; `x`: `(channels, values)`, result `(channels,)`."""
    x = x.detach().double()
    largest = x.abs().amax(1)
    candidates = largest[:, None] * fractions.to(x) / max(high, 1)  # (channels, fractions); signed of 1 bit: -1 and 0
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
            raise ConfigError(
                f"{where}: no quantizer has {bits!r} bits. Widths are {', '.join(map(str, WIDTHS))}, or 32: float"
            )
    if not found or len(set(found)) != len(found):
        raise ConfigError(f"{where}: {widths!r} must name at least one width, each once")
    return found


def to_grid(value: Tensor, grid: Tensor) -> Tensor:
    """The nearest multiples of a grid, straight-through."""
    return value + (torch.round(value / grid) * grid - value).detach()
