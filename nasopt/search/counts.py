"""How many channels and taps are left? Masks of units and taps, summed per group and per kernel axis."""

from __future__ import annotations

import torch
from torch import Tensor

from nasopt.graph.groups import Analysis
from nasopt.search.channels import ChannelMasks
from nasopt.search.kernels import KernelMasks


class Counts:
    """Channels of every searchable group, then taps of every searched kernel axis, as one vector.

    Attributes:
        total: groups + axes.
        taps: taps of all axes.
    """

    def __init__(self, channels: ChannelMasks, kernels: KernelMasks, analysis: Analysis) -> None:
        groups = len(analysis.searchable)
        self.total = groups + len(kernels.axes)
        self.taps = len(kernels.tap_axis)
        # Groups that follow a choice have no units: one mask per channel.
        behind = analysis.atom_group[len(channels.channel_unit) :]
        self._index = torch.cat([channels.unit_group, behind, groups + kernels.tap_axis])
        sizes = [channels.unit_size, torch.ones_like(behind), torch.ones_like(kernels.tap_axis)]
        self._sizes = torch.cat(sizes).to(torch.float64)
        # One ring of an even kernel holds two taps: the innermost one is the smallest kernel.
        self._fewest_taps = torch.tensor([axis.field.count(0) for axis in kernels.axes], dtype=torch.float64)
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, masks: Tensor) -> Tensor:
        """Sums of the masks of all units, channels behind choices, and taps, shape `(total,)`, float64, differentiable."""
        index, sizes = self._tensors(masks.device)
        weighted = masks * sizes
        return weighted.new_zeros(self.total).index_add(0, index, weighted)

    def seed(self, device: torch.device) -> Tensor:
        """Counts of the seed."""
        index, sizes = self._tensors(device)
        return sizes.new_zeros(self.total).index_add(0, index, sizes)

    def with_smallest_taps(self, counts: Tensor) -> Tensor:
        """The same counts of channels, and the innermost taps of every axis."""
        groups = self.total - len(self._fewest_taps)
        return torch.cat([counts[:groups], self._fewest_taps.to(counts)])

    def _tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._on_device:
            # Sums stay exact in float64; devices without it (mps) get the nearest that they have.
            dtype = torch.float32 if device.type == "mps" else torch.float64
            self._on_device[device] = (self._index.to(device), self._sizes.to(device=device, dtype=dtype))
        return self._on_device[device]
