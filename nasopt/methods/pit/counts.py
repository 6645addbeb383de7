"""How many channels and taps are left? Masks of units and taps, summed per group and per kernel axis."""

from __future__ import annotations

import torch
from torch import Tensor

from nasopt.methods.pit.channels import ChannelMasks
from nasopt.methods.pit.kernels import KernelMasks


class Counts:
    """Channels of every searchable group, then taps of every searched kernel axis, as one vector.

    Attributes:
        total: groups + axes.
    """

    def __init__(self, channels: ChannelMasks, kernels: KernelMasks) -> None:
        self.total = channels.groups + len(kernels.axes)
        self._index = torch.cat([channels.unit_group, channels.groups + kernels.tap_axis])
        sizes = torch.cat([channels.unit_size, torch.ones_like(kernels.tap_axis)])
        self._sizes = sizes.to(torch.float64)
        most = torch.iinfo(torch.int64).max
        least = torch.full((self.total,), most).scatter_reduce(0, self._index, sizes, "amin")
        # One ring of an even kernel holds two taps: the innermost one is the smallest kernel.
        for i, axis in enumerate(kernels.axes):
            least[channels.groups + i] = axis.field.count(0)
        self._least = least.to(torch.float64)
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, masks: Tensor) -> Tensor:
        """Sums of the masks of all units and taps, shape `(total,)`, float64, differentiable."""
        index, sizes = self._tensors(masks.device)
        weighted = masks * sizes
        return weighted.new_zeros(self.total).index_add(0, index, weighted)

    def seed(self, device: torch.device) -> Tensor:
        """Counts of the seed."""
        index, sizes = self._tensors(device)
        return sizes.new_zeros(self.total).index_add(0, index, sizes)

    def smallest(self, device: torch.device) -> Tensor:
        """Counts of the smallest network: one block per group, the innermost taps of every axis."""
        sizes = self._tensors(device)[1]
        return self._least.to(device=device, dtype=sizes.dtype)

    def _tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._on_device:
            # Sums stay exact in float64; devices without it (mps) get the nearest that they have.
            dtype = torch.float32 if device.type == "mps" else torch.float64
            self._on_device[device] = (self._index.to(device), self._sizes.to(device=device, dtype=dtype))
        return self._on_device[device]
