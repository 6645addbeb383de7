"""Channel masks: one parameter alpha per block of channels, one hard mask for all layers at once."""

from __future__ import annotations

import torch
from torch import Tensor

from nasopt.errors import ConfigError
from nasopt.graph.groups import Analysis
from nasopt.search.constants import Constants
from nasopt.ste import straight_through

THRESHOLD = 0.5
# Puts equal parameters into an order where units are ranked against each other.
_TIE_BREAK = 1e-6


class ChannelMasks:
    """Units (blocks of channels that live and die together) of all searchable groups, laid out one after the other.

    Attributes:
        groups: number of groups that have units.
        units: number of units: the length of alpha.
        unit_group: group of every unit, shape `(units,)`.
        unit_size: channels of every unit, shape `(units,)`.
        channel_unit: unit of every channel, shape `(channels,)`.
    """

    def __init__(self, analysis: Analysis, channel_block: int) -> None:
        sizes, groups = [], []
        for index, group in enumerate(analysis.searchable):
            if group.follows_choice:
                continue
            blocks = [channel_block] * (group.size // channel_block)
            rest = group.size % channel_block
            blocks += [rest] if rest else []
            sizes += blocks
            groups += [index] * len(blocks)
        self.groups = len(set(groups))
        self.units = len(sizes)
        self.unit_size = torch.tensor(sizes, dtype=torch.int64)
        self.unit_group = torch.tensor(groups, dtype=torch.int64)
        self.channel_unit = torch.repeat_interleave(torch.arange(self.units), self.unit_size)
        first = torch.searchsorted(self.unit_group, torch.arange(self.groups))
        # Units of every group in a row; short rows repeat their last unit.
        last = torch.bincount(self.unit_group, minlength=self.groups) - 1
        width = int(last.max()) + 1 if self.groups else 0
        rows = first[:, None] + torch.minimum(torch.arange(width)[None, :], last[:, None])
        later = (torch.arange(self.units) - first[self.unit_group]).to(torch.float32) * _TIE_BREAK
        self._constants = Constants(self.unit_group, later, rows)

    def score(self, alpha: Tensor) -> Tensor:
        """Alpha with ties broken in favour of earlier units, shape `(units,)`."""
        return alpha.detach() - self._constants.on(alpha.device, alpha.dtype)[1]

    def alive(self, alpha: Tensor, thresholds: Tensor | None = None) -> Tensor:
        """Hard decision per unit, shape `(units,)`, bool: `alpha > 0.5`, and the best unit of every group anyway.

        With `thresholds` of the groups, shape `(groups,)`, a unit lives whose `score` exceeds that of its group.
        """
        group, _, rows = self._constants.on(alpha.device, alpha.dtype)
        value = alpha.detach()
        above = value > THRESHOLD if thresholds is None else self.score(alpha) > thresholds[group]
        if not self.units:
            return above
        # Of equal ones the first: exactly one unit of a dying group survives.
        best = rows.gather(1, value[rows].argmax(1, keepdim=True))
        return above.index_fill(0, best.view(-1), True)

    def smallest_units(self) -> Tensor:
        """0 or 1 per unit, shape `(units,)`: of every group the smallest block alone."""
        alone = torch.zeros(self.units)
        for group in range(self.groups):
            units = torch.nonzero(self.unit_group == group).reshape(-1)
            alone[units[self.unit_size[units].argmin()]] = 1
        return alone

    def mask(self, alpha: Tensor, thresholds: Tensor | None = None) -> Tensor:
        """0 or 1 per unit, shape `(units,)`; the gradient goes straight through to alpha (Bengio et al. 2013)."""
        return straight_through(self.alive(alpha, thresholds), alpha)


def check_channel_block(channel_block: object) -> int:
    """A usable size of blocks.

    Raises:
        ConfigError: it is no int >= 1.
    """
    if isinstance(channel_block, bool) or not isinstance(channel_block, int) or channel_block < 1:
        raise ConfigError(f"channel_block must be an int >= 1, got {channel_block!r}")
    return channel_block
