"""Latency law of int8 layers on Cortex-M cores: one law for the family, to which each core brings its prices.

    cycles = price(kind) * MAC + output_price * output elements + call_price

Prices differ by kind because the inner loops do: a k x k convolution reuses an unrolled patch for many output channels,
a pointwise or depthwise one does less work per value loaded, a fully connected layer loads each weight for one product.
Convolutions that read fewer than four channels cannot fill the 32-bit (two times 16 bit) multiplier: per product they
pay `few` times the price. Elementwise operations (norms, sums, lookups) pay the output price per element.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from nasopt.cost.targets.rows import KIND_CODES, Row
from nasopt.cost.targets.signature import KERNEL_SIGNATURE

PRICED = frozenset(KIND_CODES)
"""A CPU runs everything: no kind is free or without a price."""

FEW_CHANNELS = 4
"""Channels below which the inner loop of a k x k convolution does not fill its registers."""


def cortex_law(square: float, point: float, linear: float) -> tuple[int, ...]:
    """Prices of one core as the integer constants of `cycles` [1/1000 cycle].

    Args:
        square: of one product in a k x k convolution [cycle/MAC].
        point: of one product in a pointwise or depthwise convolution [cycle/MAC].
        linear: of one product in a fully connected layer [cycle/MAC].

    The price of an output element (requantise and store: 8 k x k products), of a call (500) and the factor for few
    channels (2) are assumptions common to the family: four networks per board cannot tell them from the rest.
    """
    return round(1e3 * square), round(1e3 * point), round(1e3 * linear), round(8e3 * square), round(5e5 * square), 2


@njit(KERNEL_SIGNATURE, cache=True)
def cycles(row: Row, law: Any) -> int:
    """Cycles of one call; `law` is `square, point, linear, output, call` [1/1000 cycle] and `few`."""
    kind, cin, cout, k0, k1, h, w, s0, s1, groups, _ = row
    taps = k0 * k1
    outputs = h * w * cout
    if kind == 0 or kind == 4:  # dense, grouped or transposed convolution
        read = cin if groups == 1 else cin // groups
        macs = outputs * taps * read
        if kind == 4:
            outputs = outputs * s0 * s1
        if taps == 1:
            work = macs * law[1]
        elif read < 4:
            work = macs * law[0] * law[5]
        else:
            work = macs * law[0]
    elif kind == 1:  # depthwise
        work = outputs * taps * law[1]
    elif kind == 2 or kind == 3:  # fully connected, product of activations
        work = outputs * cin * law[2]
    elif kind == 9:  # pool: every element of the window is read
        work = outputs * taps * law[3] // 4
    else:  # elementwise: only the output price
        work = 0
    return (work + outputs * law[3] + law[4] + 500) // 1000
