"""Constant tensors of a model, copied once to every device that a search runs on."""

from __future__ import annotations

import torch
from torch import Tensor


class Constants:
    """Tensors that follow from the model alone; indices keep their dtype, numbers are float64 unless asked otherwise."""

    def __init__(self, *tensors: Tensor) -> None:
        self._tensors = tensors
        self._copies: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def on(self, device: torch.device, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        """The tensors on a device, numbers in the given dtype."""
        key = (device, dtype)
        if key not in self._copies:
            number = exact_dtype(device) if dtype == torch.float64 else dtype
            self._copies[key] = tuple(t.to(device, number if t.is_floating_point() else t.dtype) for t in self._tensors)
        return self._copies[key]


def exact_dtype(device: torch.device) -> torch.dtype:
    """In which counts and costs are summed: float64, exact up to 2^53; devices without it (mps) get float32."""
    return torch.float32 if device.type == "mps" else torch.float64
