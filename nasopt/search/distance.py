"""How far two tensors are apart that should be equal, and how far they may be."""

from __future__ import annotations

import torch
from torch import Tensor

# Largest difference, relative to the largest output; sums in another order differ by this much at most.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}
TOLERANCE |= {torch.complex64: 1e-3, torch.complex128: 1e-9}


def distance(left: Tensor, right: Tensor, floor: float = 0.0) -> float:
    """Largest difference relative to the largest value of `left`; what is not finite must be equal."""
    if left.numel() == 0:
        return 0.0
    if not (left.is_floating_point() or left.is_complex()):
        return 0.0 if torch.equal(left, right) else float("inf")
    wide = torch.complex128 if left.is_complex() else torch.float64
    left, right = left.detach().to(wide), right.detach().to(wide)
    same = (left == right) | (left.isnan() & right.isnan())
    if bool(same.all()):
        return 0.0
    difference = float((left - right).abs().masked_fill(same, 0.0).max())
    scale = max(float(torch.where(left.isfinite(), left.abs(), torch.zeros((), device=left.device)).max()), floor)
    return difference / scale if scale else difference
