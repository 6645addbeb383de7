"""Integer arithmetic of programs: rounding, multipliers of 31 bits, rescaling; NumPy int64.

A positive real M is `mult 2^-t` with mult of 31 bits; `rescale` multiplies integers by it and rounds once, ties up.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray[Any, Any]

# In double precision a tie that rounding errors have moved is still a tie: as quantisation points have it.
NUDGE = 2.0**-30


def round_half_up(x: ArrayLike) -> Array:
    """The nearest integers, ties up, int64."""
    return np.floor(np.asarray(x, np.float64) + (0.5 + NUDGE)).astype(np.int64)


def multiplier(factor: float) -> tuple[int, int]:
    """`(mult, e)` of `factor = mult 2^(e - 31)`, mult in [2^30, 2^31); (0, 0) below 2^-32.

    Args:
        factor: > 0.
    """
    mantissa, exponent = math.frexp(factor)
    mult = round(mantissa * 2**31)
    if mult == 2**31:
        mult, exponent = 2**30, exponent + 1
    return (0, 0) if exponent < -31 or not mult else (mult, exponent)


def multipliers(factors: Array) -> tuple[Array, Array]:
    """Multipliers, int32, and right shifts t, int8, of an array of factors."""
    found = [multiplier(float(factor)) for factor in factors.reshape(-1)]
    mult = np.array([m for m, _ in found], np.int32).reshape(factors.shape)
    shift = np.array([31 - e for _, e in found], np.int8).reshape(factors.shape)
    return mult, shift


def rescale(values: Array, mult: ArrayLike, shift: ArrayLike) -> Array:
    """`values mult 2^-shift`, rounded half up; |values| < 2^31, shift from 1 to 62."""
    shift = np.asarray(shift, np.int64)
    return ((values.astype(np.int64) * np.asarray(mult, np.int64) >> (shift - 1)) + 1) >> 1


def sum_multipliers(first: float, second: float) -> tuple[int, int, int]:
    """`(a, b, n)` of `(x a + y b + 2^(n-1)) >> n`: the larger factor has 30 bits; signs are kept."""
    n = min(30 - math.frexp(max(abs(first), abs(second)))[1], 62)
    return round(first * 2.0**n), round(second * 2.0**n), n


def rescale_sum(x: Array, y: Array, first: int, second: int, shift: int) -> Array:
    """`x first + y second`, times 2^-shift, rounded half up."""
    return (x.astype(np.int64) * first + y.astype(np.int64) * second + (1 << (shift - 1))) >> shift
