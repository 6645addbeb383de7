"""Straight-through estimators: a hard decision forward, the gradient of a soft one backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """`hard` in the forward pass, the gradient of `soft` (identity) in the backward pass.

    Bengio et al., "Estimating or propagating gradients through stochastic neurons", 2013. The sum is exact, because the
    added difference is zero; a NaN or infinity in `soft` shows in the result.
    """
    return hard.to(soft.dtype) + (soft - soft.detach())


class _BinarySign(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return signs(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return gradient * x.abs().mul_(-2).add_(2).clamp_(min=0)


class _BinaryWeight(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor) -> tuple[Tensor, Tensor]:
        scale = weight.abs().mean()
        return signs(weight) * scale, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> Tensor:  # type: ignore[override]
        (scale,) = ctx.saved_tensors
        return gradient * scale


def signs(x: Tensor) -> Tensor:
    """+1 where `x >= 0`, else -1, in the dtype of `x`; zero counts as positive."""
    return (x >= 0).to(x.dtype).mul_(2).sub_(1)


def binary_sign(x: Tensor) -> Tensor:
    """`signs(x)` forward; backward the slope of a piecewise parabola: 2 + 2x on [-1, 0), 2 - 2x on [0, 1), 0 elsewhere.

    Liu et al., "Bi-Real Net", ECCV 2018; the slope is 2 - 2|x| where that is positive.
    """
    return _BinarySign.apply(x)


def binary_weight(weight: Tensor) -> Tensor:
    """`s sign(W)` forward with s the mean of |W| over the whole tensor; backward the gradient times s.

    Rastegari et al., "XNOR-Net", ECCV 2016, with the straight-through estimator through the sign.
    """
    return _BinaryWeight.apply(weight)[0]


class _Quantise(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, step: Tensor, low: float, high: float, scale: float, half_up: bool) -> tuple[Tensor, Tensor]:
        levels = (x / step).clamp_(low, high)
        if half_up:
            levels.add_(0.5 + _NUDGE.get(x.dtype, 0.0)).floor_()
        else:
            levels.round_()
        return levels * step, levels

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, step, ctx.low, ctx.high, ctx.scale, _ = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, step, output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Any, ...]:  # type: ignore[override]
        x, step, levels = ctx.saved_tensors
        position = x / step
        inside = (position >= ctx.low) & (position <= ctx.high)
        to_x = gradient * inside
        to_step = None
        if ctx.needs_input_grad[1]:
            # q - x/s inside, the bound outside.
            to_step = (gradient * levels - to_x * position).sum_to_size(step.shape) * ctx.scale
        return to_x, to_step, None, None, None, None


# In double precision a tie that rounding errors have moved is still a tie.
_NUDGE = {torch.float64: 2.0**-30}


def quantise(
    x: Tensor, step: Tensor, low: float, high: float, gradient_scale: float = 1.0, half_up: bool = False
) -> Tensor:
    """`s R(clip(x/s, low, high))`: the nearest number on a grid of step s.

    Backward: to x the gradient where `low <= x/s <= high`, 0 elsewhere; to s the sum of `R(x/s) - x/s` inside, `low` below
    and `high` above, times `gradient_scale`. Esser et al., "Learned step size quantization", ICLR 2020.

    Args:
        x: any shape, in the type in which to round.
        step: > 0, broadcasts to x.
        low, high: smallest and largest integer.
        gradient_scale: 1/sqrt(elements that share a step * high), so that steps learn as fast as weights under SGD.
        half_up: round as integer programs do, ties up; else ties to even.
    """
    return _Quantise.apply(x, step, float(low), float(high), gradient_scale, half_up)[0]
