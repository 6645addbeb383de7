"""Which channels are alive? One parameter alpha per block of channels, one hard mask for all layers at once."""

from __future__ import annotations

import torch
from torch import Tensor

from nasopt.graph.analysis import Analysis
from nasopt.ste import straight_through

THRESHOLD = 0.5


class ChannelMasks:
    """Units (blocks of channels that live and die together) of all searchable groups, laid out one after the other.

    Attributes:
        units: number of units: the length of alpha.
        unit_group: group of every unit, shape `(units,)`.
        unit_size: channels of every unit, shape `(units,)`.
        channel_unit: unit of every channel, shape `(channels,)`.
    """

    def __init__(self, analysis: Analysis, channel_block: int) -> None:
        sizes, groups = [], []
        for index, group in enumerate(analysis.searchable):
            blocks = [channel_block] * (group.size // channel_block)
            rest = group.size % channel_block
            blocks += [rest] if rest else []
            sizes += blocks
            groups += [index] * len(blocks)
        self.groups = len(analysis.searchable)
        self.units = len(sizes)
        self.unit_size = torch.tensor(sizes, dtype=torch.int64)
        self.unit_group = torch.tensor(groups, dtype=torch.int64)
        self.channel_unit = torch.repeat_interleave(torch.arange(self.units), self.unit_size)
        self._on_device: dict[torch.device, tuple[Tensor, ...]] = {}

    def alive(self, alpha: Tensor) -> Tensor:
        """Hard decision per unit, shape `(units,)`, bool: `alpha > 0.5`, and the best unit of every group anyway."""
        group, _, unit = self._tensors(alpha)
        score = alpha.detach()
        best = score.new_full((self.groups,), -torch.inf).scatter_reduce(0, group, score, "amax")
        # Of equal ones the first: exactly one unit of a dying group survives.
        rank = torch.where(score >= best[group], unit, self.units)
        first = rank.new_full((self.groups,), self.units).scatter_reduce(0, group, rank, "amin")
        return (score > THRESHOLD) | (unit == first[group])

    def mask(self, alpha: Tensor) -> Tensor:
        """0 or 1 per unit, shape `(units,)`; the gradient goes straight through to alpha (Bengio et al. 2013)."""
        return straight_through(self.alive(alpha), alpha)

    def counts(self, mask: Tensor) -> Tensor:
        """Channels alive in every group, shape `(groups,)`, float64, differentiable in `mask`."""
        group, size, _ = self._tensors(mask)
        wide = mask.to(size.dtype) * size
        return wide.new_zeros(self.groups).index_add(0, group, wide)

    def _tensors(self, like: Tensor) -> tuple[Tensor, ...]:
        if like.device not in self._on_device:
            wide = torch.float32 if like.device.type == "mps" else torch.float64
            self._on_device[like.device] = (
                self.unit_group.to(like.device),
                self.unit_size.to(like.device, wide),
                torch.arange(self.units, device=like.device),
            )
        return self._on_device[like.device]
