"""Which masks make the most of a budget? The threshold that is 1/2 otherwise, moved until the network just fits.

Once a search has been inside its limits, every decision keeps it there: units and taps are kept in the order of their
scores, as many as fit. What is left over is given to single groups, again in the order of scores. So pressure that went
a little too far costs nothing, and later steps only exchange units that matter less for ones that matter more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nasopt.search.channels import ChannelMasks
from nasopt.search.kernels import KernelMasks, Ladders
from nasopt.uncompiled import uncompiled

Array = NDArray[np.float64]

# A network that uses less than this share of its tightest limit gets more, group by group.
_FULL = 0.98


@dataclass(frozen=True)
class Thresholds:
    """What a score must exceed: of the units of every group, shape `(groups,)` (None: 1/2), and of all taps."""

    channels: Tensor | None
    taps: float


class BudgetFit:
    """Fits thresholds to scores; remembers the last answer, which is a function of the scores alone."""

    def __init__(self, channels: ChannelMasks, kernels: KernelMasks, use: Callable[[Tensor], float]) -> None:
        """`use(counts)` is the largest share of a limit that a network with these counts needs."""
        self._channels, self._kernels, self._use = channels, kernels, use
        self._group = channels.unit_group.numpy()
        self._size = channels.unit_size.numpy().astype(np.float64)
        self._last: tuple[bytes, Thresholds] | None = None

    @uncompiled
    def __call__(self, units: Tensor, taps: Sequence[Tensor]) -> Thresholds:
        """Thresholds for scores of the units, shape `(units,)`, and of the items of the tap ladders."""
        scores = [score.detach().to("cpu", torch.float64).numpy() for score in (units, *taps)]
        key = b"".join(score.tobytes() for score in scores)
        if self._last is None or self._last[0] != key:
            levels = self._fit(scores[0], scores[1:])
            channels = torch.tensor(levels[:-1], dtype=units.dtype, device=units.device)
            self._last = (key, Thresholds(channels, float(levels[-1])))
        return self._last[1]

    def _fit(self, units: Array, taps: Sequence[Array]) -> list[float]:
        groups = self._channels.groups
        # One lever per group and one for all taps: its scores, highest first.
        levers = [np.unique(units[self._group == g])[::-1] for g in range(groups)]
        levers.append(np.unique(np.concatenate([*taps, np.empty(0, units.dtype)]))[::-1])
        every = np.unique(np.concatenate(levers))[::-1]

        def use(kept: Sequence[int]) -> float:
            return self._use(self._counts(units, taps, [_level(lever, k) for lever, k in zip(levers, kept)]))

        def above(k: int) -> list[int]:
            level = _level(every, k)
            return [int((lever > level).sum()) for lever in levers]

        kept = above(_largest(lambda k: use(above(k)) <= 1, len(every)))
        by_score = sorted(range(len(levers)), key=lambda i: -_level(levers[i], kept[i]))
        for i in by_score:
            if use(kept) >= _FULL:
                break

            def more(k: int, i: int = i) -> bool:
                return use([*kept[:i], kept[i] + k, *kept[i + 1 :]]) <= 1

            kept[i] += _largest(more, len(levers[i]) - kept[i])
        return [_level(lever, k) for lever, k in zip(levers, kept)]

    def _counts(self, units: Array, taps: Sequence[Array], levels: Sequence[float]) -> Tensor:
        """Channels of every group, then taps of every kernel axis: as the masks give them."""
        groups = self._channels.groups
        best = np.full(groups, -np.inf)
        np.maximum.at(best, self._group, units)
        alive = (units > np.asarray(levels)[self._group]) | (units >= best[self._group])
        channels = np.bincount(self._group, self._size * alive, groups)
        if not self._kernels.axes:
            return torch.from_numpy(channels)
        field = _reached(self._kernels.field, taps[0], levels[-1])[self._kernels.tap_field.numpy()]
        if len(taps) > 1:
            grid = np.append(_reached(self._kernels.grid, taps[1], levels[-1]), True)
            field = field & grid[self._kernels.tap_grid.numpy()]
        axes = np.bincount(self._kernels.tap_axis.numpy(), field, len(self._kernels.axes))
        return torch.from_numpy(np.concatenate([channels, axes]))


def _level(lever: Array, kept: int) -> float:
    """The threshold above which `kept` different scores lie."""
    return float(lever[kept]) if kept < len(lever) else -np.inf


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, by bisection; 0 is taken to fit."""
    if most > 0 and fits(most):
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _reached(ladders: Ladders, score: Array, level: float) -> NDArray[np.bool_]:
    """Which items of the ladders live: all up to the last one above the threshold, and item 0."""
    item, ladder = ladders.item.numpy(), ladders.ladder.numpy()
    reach = np.zeros(len(ladders.sizes), dtype=np.int64)
    np.maximum.at(reach, ladder, item * (score > level))
    return item <= reach[ladder]
