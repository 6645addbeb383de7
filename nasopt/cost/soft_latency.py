"""How does a branchy integer law become differentiable? By interpolation between exact values at its knots.

The knots of a channel axis are 1 and the multiples of the target's tile: between two of them the interpolant is
straight, so its slope says what the next whole tile costs. (With a knot at every count the slope inside a tile would be
0, and a cliff at its edge.) At a knot the slope is that of the segment below: what removing channels saves. Taps have a
knot at every count. Counts below 1 cost as much as 1: at least one channel of every group survives.

Whole counts have the exact value of the kernel, also between knots, and the slope of the line: searches with hard
masks, whose counts are whole, see what the chip will take. Only fractions have the value of the line.

Nothing is stored: each call evaluates the compiled kernel at the corners of the cells in which the counts lie, which
takes microseconds for a whole network. `LatencyTable` stores all corners for loops that must not leave the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasopt.cost.latency import evaluate
from nasopt.cost.targets.rows import COLUMNS, DEPLOYED_BITS
from nasopt.cost.targets.target import Target
from nasopt.errors import ConfigError

_IN, _OUT, _K0, _K1, _GROUPS = (COLUMNS.index(name) for name in ("in", "out", "k0", "k1", "groups"))


def segment(counts: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """Knots below and above each count: `below < count <= above`, both float64 and without gradient.

    >>> segment(torch.tensor([1.0, 3.0, 8.0, 9.5]), tile=4)
    (tensor([1., 1., 4., 8.]), tensor([ 4.,  4.,  8., 12.]))
    """
    counts = counts.detach()
    first = 1 if tile == 1 else 0
    below = tile * (torch.ceil(counts / tile) - 1).clamp(min=first)
    return below.clamp(min=1), below + tile


def soft_cycles(target: Target, kind: str, fields: tuple[Any, ...]) -> Tensor:
    """Cycles (n,) float64 of `n` layers of one kind, differentiable in their channel and kernel counts.

    `fields` are the columns of a row, ints or tensors `(n,)`. Floating channels and taps are soft, everything else is
    rounded. Channels of a grouped convolution are interpolated per group. A depthwise layer has one channel count: its
    outputs; its inputs follow at a fixed ratio.

    Raises:
        ConfigError: the columns do not have one common length.
    """
    given = [torch.as_tensor(field) for field in fields]
    device = next(field.device for field in given if field.ndim > 0 or field.is_floating_point())
    try:
        columns = torch.broadcast_tensors(*(field.to(device, torch.float64) for field in given))
    except RuntimeError as error:
        lengths = sorted({tuple(field.shape) for field in given})
        raise ConfigError(f"{kind} layers: counts have the shapes {lengths}: give tensors of one length") from error
    base = torch.stack([column.detach().round() for column in columns], dim=-1)  # (n, 11)
    base[..., -1].clamp_(max=DEPLOYED_BITS)
    base[..., 1:].clamp_(min=1)

    groups = base[..., _GROUPS]
    axes: list[tuple[int, Tensor, int]] = []  # column, soft count, tile
    one_count = kind not in ("conv", "conv_transpose", "linear", "matmul")
    if _soft(given[_OUT]):
        axes.append((_OUT, columns[_OUT] / groups, target.tile_out))
    if _soft(given[_IN]) and not one_count:
        axes.append((_IN, columns[_IN] / groups, target.tile_in))
    axes += [(column, columns[column], 1) for column in (_K0, _K1) if _soft(given[column])]

    corners = base.expand(2 ** len(axes), *base.shape).clone()  # (corners, n, 11)
    weights = torch.ones(corners.shape[:-1], dtype=torch.float64, device=device)  # (corners, n)
    for bit, (column, count, tile) in enumerate(axes):
        below, above = segment(count, tile)
        share = (count.clamp(min=1) - below) / (above - below)
        upper = _upper(bit, len(axes), base.ndim - 1, device)
        per_group = groups if column in (_IN, _OUT) else 1
        corners[..., column] = torch.where(upper, above, below) * per_group
        weights = weights * torch.where(upper, share, 1 - share)
    if one_count and _soft(given[_OUT]):
        multiplier = (base[..., _OUT] / base[..., _IN]).round().clamp(min=1)
        corners[..., _IN] = torch.ceil(corners[..., _OUT] / multiplier)
    priced = torch.cat([corners, base.unsqueeze(0)]).to("cpu", torch.int64).numpy()
    exact = torch.from_numpy(evaluate(target, priced).astype(np.float64)).to(device)  # (corners + 1, n)
    line = (weights * exact[:-1]).sum(0)
    whole = torch.ones(line.shape, dtype=torch.bool, device=device)
    for column, _, _ in axes:
        whole = whole & is_whole(columns[column], base[..., column])
    return line + torch.where(whole, exact[-1] - line.detach(), 0.0)


def is_whole(counts: Tensor, nearest: Tensor) -> Tensor:
    """Where a count is the whole number `nearest` but for the rounding of float64; counts below 1 count as 1."""
    return (counts.detach().clamp(min=1) - nearest).abs() < 1e-6


def _soft(field: Tensor) -> bool:
    return field.is_floating_point()


def _upper(bit: int, axes: int, dims: int, device: torch.device) -> Tensor:
    """Which of the `2 ** axes` corners lie at the upper knot of axis `bit`: bool (corners, 1, ...)."""
    return ((torch.arange(2**axes, device=device) >> bit) & 1).bool().reshape(-1, *[1] * dims)
