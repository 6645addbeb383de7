"""Straight-through estimators: a hard decision forward, the gradient of a soft one backward."""

from __future__ import annotations

from torch import Tensor


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """`hard` in the forward pass, the gradient of `soft` (identity) in the backward pass.

    Bengio et al., "Estimating or propagating gradients through stochastic neurons", 2013. The sum is exact, because the
    added difference is zero; a NaN or infinity in `soft` shows in the result.
    """
    return hard.to(soft.dtype) + (soft - soft.detach())
