"""Straight-through estimators: a hard decision forward, the gradient of a soft one backward."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _python_dispatch

# Of versions of torch that have another way to tell, none is known.
_dispatch_mode = getattr(_python_dispatch, "_get_current_dispatch_mode", lambda: None)
# Compiled loops run in one thread.
_FEW_THREADS = 4
# Elements from which on their call pays.
_LARGE = 1 << 16


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
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, step: Tensor, low: float, high: float, scale: float, half_up: bool, clipped_only: bool
    ) -> Tensor:
        ctx.low, ctx.high, ctx.scale, ctx.clipped_only = low, high, scale, clipped_only
        ctx.grids = None
        if half_up and not clipped_only and step.numel() == 1 and not isinstance(low, Tensor) and _pays(x, step):
            ctx.grids = _Grids([float(step)], [1.0], ((low, high),))
            ctx.save_for_backward(x, step)
            return ctx.grids.round(x)
        levels = (x / step).clamp_(low, high)
        levels = levels.add_(0.5 + _NUDGE.get(x.dtype, 0.0)).floor_() if half_up else levels.round_()
        rounded = levels.mul_(step)
        ctx.save_for_backward(x, step, rounded)
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        if ctx.grids is not None:
            x, step = ctx.saved_tensors
            to_x, sums = ctx.grids.gradients(x, gradient)
            ((total, inside),) = sums.tolist()
            to_step = step.new_full(step.shape, (total - inside) * ctx.scale / float(step))
            return to_x, to_step, None, None, None, None, None
        x, step, rounded = ctx.saved_tensors
        # Inside, the step's part is R(x/s) - x/s, or nothing.
        inside = rounded if ctx.clipped_only else x
        to_step = None
        if step.numel() == 1 and not isinstance(ctx.low, Tensor) and not torch.compiler.is_compiling():
            # In few passes: activations are large.
            size = float(step)
            gradient = _laid_out_as(x, gradient)
            to_x = torch.ops.aten.hardtanh_backward(gradient, x, *_bounds(x, size, ctx.low, ctx.high))
            if ctx.needs_input_grad[1]:
                total = _dot(gradient, rounded) - _dot(to_x, inside)
                to_step = (total * (ctx.scale / size)).reshape(step.shape)
        else:
            to_x = torch.where(x.clamp(ctx.low * step, ctx.high * step) == x, gradient, 0)
            if ctx.needs_input_grad[1]:
                # q - x/s inside, the bound outside.
                to_step = (gradient * rounded - to_x * inside).sum_to_size(step.shape) / step * ctx.scale
        return to_x, to_step, None, None, None, None, None


def compiles(x: Tensor) -> bool:
    """Whether compiled loops are the fastest way: in few threads on a CPU, where nobody watches torch's operators."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or _dispatch_mode() is not None:
        return False
    plain = type(x) in (Tensor, torch.nn.Parameter) and x.device.type == "cpu" and x.dtype == torch.float32
    return plain and torch.get_num_threads() <= _FEW_THREADS


def _pays(x: Tensor, steps: Tensor) -> bool:
    """Whether to round with compiled loops: x is large, its elements lie without gaps, and Numba, an extra, is there."""
    fits = x.numel() >= _LARGE and steps.dtype == x.dtype and (x.is_contiguous() or _has_channels_last(x))
    return fits and compiles(x) and _has_numba()


@lru_cache(maxsize=1)
def _has_numba() -> bool:
    return find_spec("numba") is not None


class _Grids:
    """Several grids as compiled loops take them, `rounding_kernels` says what they compute."""

    def __init__(self, steps: Sequence[float], shares: Sequence[float], ranges: Sequence[tuple[float, float]]) -> None:
        from nasopt import rounding_kernels  # numba takes a second to import

        self._kernels, self._ranges, self._sizes = rounding_kernels, ranges, steps
        of_grids = (steps, [low for low, _ in ranges], [high for _, high in ranges], shares)
        self._steps, self._lows, self._highs, self._shares = (_single(one) for one in of_grids)

    def round(self, x: Tensor) -> Tensor:
        """The sum of x rounded to all grids, by their shares."""
        result = torch.empty_like(x)
        self._kernels.round_to_grids(_flat(x), self._steps, self._lows, self._highs, self._shares, _flat(result))
        return result

    def gradients(self, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """To x; and for every grid the sums of gradient * rounded and of what passes, unweighted, times x."""
        to_x, sums = torch.empty_like(x), torch.empty(len(self._ranges), 2, dtype=torch.float64)
        bounds = _single([_bounds(x, size, *own) for size, own in zip(self._sizes, self._ranges)])
        given = (_flat(x), _flat(_laid_out_as(x, gradient)), self._steps, self._lows, self._highs)
        self._kernels.gradients(*given, bounds, self._shares, _flat(to_x), sums.numpy())
        return to_x, sums


def _single(values: Sequence[Any]) -> Any:
    """Numbers in single precision; what is too large is infinite, as for torch."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32)


def _flat(x: Tensor) -> Any:
    """All elements in the order in which they lie, as a NumPy array on the same memory."""
    x = x.detach()
    return (x.permute(0, 2, 3, 1) if _has_channels_last(x) else x).reshape(-1).numpy()


def _bounds(x: Tensor, step: float, low: float, high: float) -> tuple[float, float]:
    """Between which the gradient passes: `low` and `high` themselves are inside."""
    kind = torch.finfo(x.dtype)
    return low * step - kind.tiny, high * step * (1 + kind.eps)


def _laid_out_as(x: Tensor, gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last if _has_channels_last(x) else torch.contiguous_format)


def _has_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _dot(left: Tensor, right: Tensor) -> Tensor:
    if _has_channels_last(left) and _has_channels_last(right):  # without copies
        left, right = left.permute(0, 2, 3, 1), right.permute(0, 2, 3, 1)
    return torch.dot(left.reshape(-1), right.reshape(-1))


# In double precision a tie that rounding errors have moved is still a tie.
_NUDGE = {torch.float64: 2.0**-30}


def quantise(
    x: Tensor,
    step: Tensor,
    low: Any,
    high: Any,
    gradient_scale: Any = 1.0,
    half_up: bool = False,
    clipped_only: bool = False,
) -> Tensor:
    """`s R(clip(x/s, low, high))`: the nearest number on a grid of step s.

    Backward: to x the gradient where `low <= x/s <= high`, 0 elsewhere; to s the sum of `R(x/s) - x/s` inside, `low` below
    and `high` above, times `gradient_scale`. Esser et al., "Learned step size quantization", ICLR 2020.

    Args:
        x: any shape, in the type in which to round.
        step: > 0, broadcasts to x.
        low, high: smallest and largest integer: numbers, or tensors of the shape of `step`, as `gradient_scale` then.
        gradient_scale: 1/sqrt(elements that share a step * high), so that steps learn as fast as weights under SGD.
        half_up: round as integer programs do, ties up; else ties to even.
        clipped_only: to s nothing from inside: Choi et al., "PACT: parameterized clipping activation", 2018.
    """
    if not isinstance(low, Tensor):
        low, high = float(low), float(high)
    return _Quantise.apply(x, step, low, high, gradient_scale, half_up, clipped_only)


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        steps: Tensor,
        shares: Tensor,
        ranges: tuple[tuple[int, int], ...],
        scales: tuple[float, ...],
    ) -> Tensor:
        ctx.ranges, ctx.scales, ctx.grids = ranges, scales, None
        if _pays(x, steps):
            ctx.grids = _Grids(steps.tolist(), shares.tolist(), ranges)
            ctx.save_for_backward(x, steps, shares)
            return ctx.grids.round(x)
        parts = []
        for step, (low, high) in zip(steps.tolist(), ranges):
            parts.append((x / step).clamp_(low, high).add_(0.5).floor_().mul_(step))
        weights = shares.tolist()
        total = parts[0] * weights[0]
        for part, weight in zip(parts[1:], weights[1:]):
            total.add_(part, alpha=weight)
        ctx.save_for_backward(x, steps, shares, *parts)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, steps, shares, *parts = ctx.saved_tensors
        if ctx.grids is not None:
            passed, sums = ctx.grids.gradients(x, gradient)
            factors = shares.double() * torch.tensor(ctx.scales, dtype=torch.float64) / steps.double()
            to_all = ((sums[:, 0] - sums[:, 1]) * factors).to(steps.dtype)
            return passed, to_all, sums[:, 0].to(shares.dtype), None, None
        gradient = _laid_out_as(x, gradient)
        to_x: Any = None
        to_steps, to_shares = [], []
        for size, share, part, (low, high), scale in zip(
            steps.tolist(), shares.tolist(), parts, ctx.ranges, ctx.scales
        ):
            inside = torch.ops.aten.hardtanh_backward(gradient, x, *_bounds(x, size, low, high))
            to_share = _dot(gradient, part)
            to_steps.append((to_share - _dot(inside, x)) * (share * scale / size))
            to_shares.append(to_share)
            to_x = inside.mul_(share) if to_x is None else to_x.add_(inside, alpha=share)
        return to_x, torch.stack(to_steps), torch.stack(to_shares).to(shares.dtype), None, None


def quantise_mixture(
    x: Tensor, steps: Tensor, shares: Tensor, ranges: tuple[tuple[int, int], ...], gradient_scales: tuple[float, ...]
) -> Tensor:
    """The sum of `quantise(x, step, ...)` on several grids, weighted with `shares`; in few passes over x.

    Args:
        x: any shape.
        steps, shares: one per grid, `(grids,)`.
        ranges: smallest and largest integer of every grid.
        gradient_scales: as in `quantise`.
    """
    return _Mixture.apply(x, steps, shares, ranges, gradient_scales)  # type: ignore[no-any-return]
