"""Kernels that round activations to a grid in one pass over memory each way, where torch's operators take five and three.

They compute the same numbers: a division, two comparisons, an addition, `floor` and a product for every element, in single
precision. Backward, the rounded numbers are computed again: reading them would take longer. Blocks stay in a core's first cache;
sums within a block are in single precision, in any order, those of blocks in double.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nasopt.compiled import njit

_BLOCK = 4096
_HALF, _ZERO = np.float32(0.5), np.float32(0)


@njit(inline="always")
def _rounded(x: Any, step: Any, low: Any, high: Any) -> Any:
    level = x / step
    level = low if level < low else (high if level > high else level)  # a NaN stays one
    return np.floor(level + _HALF) * step


@njit
def _round_block(x: Any, step: Any, low: Any, high: Any, share: Any, result: Any, adds: bool) -> None:
    if adds:
        for i in range(x.size):
            result[i] += _rounded(x[i], step, low, high) * share
    else:
        for i in range(x.size):
            result[i] = _rounded(x[i], step, low, high) * share


@njit(fastmath={"reassoc", "nsz"})
def _gradient_block(
    x: Any, gradient: Any, step: Any, low: Any, high: Any, below: Any, above: Any, share: Any, to_x: Any, adds: bool
) -> Any:
    """Sums of gradient * rounded and of what passes * x; what passes, weighted, goes to `to_x`."""
    rounded, inside = _ZERO, _ZERO
    for i in range(x.size):
        passes = _ZERO if x[i] <= below or x[i] >= above else gradient[i]
        rounded += gradient[i] * _rounded(x[i], step, low, high)
        inside += passes * x[i]
        to_x[i] = to_x[i] + passes * share if adds else passes * share
    return rounded, inside


@njit
def round_to_grids(x: Any, steps: Any, lows: Any, highs: Any, shares: Any, result: Any) -> None:
    """`result = sum_k shares[k] * steps[k] * floor(clip(x / steps[k], lows[k], highs[k]) + 1/2)`.

    Args:
        x, result: float32, `(n,)`.
        steps, lows, highs, shares: float32, one per grid, `(grids,)`.
    """
    for start in range(0, x.size, _BLOCK):
        block, into = x[start : start + _BLOCK], result[start : start + _BLOCK]
        for k in range(steps.size):
            _round_block(block, steps[k], lows[k], highs[k], shares[k], into, k > 0)


@njit
def gradients(
    x: Any, gradient: Any, steps: Any, lows: Any, highs: Any, bounds: Any, shares: Any, to_x: Any, sums: Any
) -> None:
    """What of `gradient` passes to x, and two sums for the gradients of steps and shares.

    Args:
        x, gradient, to_x: float32, `(n,)`; `to_x` is written: `gradient * shares[k]` where `bounds[k, 0] < x < bounds[k, 1]`.
        steps, lows, highs, shares: as in `round_to_grids`.
        bounds: `(grids, 2)`.
        sums: float64, `(grids, 2)`, written: of gradient * rounded x, and of what passes, unweighted, times x.
    """
    sums[:] = 0
    for start in range(0, x.size, _BLOCK):
        block, given, into = x[start : start + _BLOCK], gradient[start : start + _BLOCK], to_x[start : start + _BLOCK]
        for k in range(steps.size):
            below, above = bounds[k, 0], bounds[k, 1]
            rounded, inside = _gradient_block(
                block, given, steps[k], lows[k], highs[k], below, above, shares[k], into, k > 0
            )
            sums[k, 0] += rounded
            sums[k, 1] += inside
