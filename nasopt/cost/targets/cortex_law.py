"""Latency law of int8 layers on CPU cores with multiply-accumulate loops: eleven prices, one law for all cores and stacks.

    price        unit
    kxk          MAC of convolutions with more than one tap and at least 4 input channels per group
    few          MAC of convolutions with fewer input channels per group: they cannot fill a multiplier for two or four products
    pointwise    MAC of 1x1 convolutions
    depthwise    MAC of depthwise convolutions
    linear       MAC of linear layers and products of activations
    patch        position x tap x input channel of a k x k convolution: copying patches
    pointwise_input  position x input channel of a 1x1 convolution
    output       element written
    call         layer
    elementwise  element of an addition, norm or lookup; tap x element of a pooling
    weight       byte of weights read

Fitted as `nasopt.cost.calibration` describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nasopt.compiled import njit
from nasopt.cost.targets.rows import KIND_CODES, Row
from nasopt.cost.targets.signature import KERNEL_SIGNATURE

PRICED = frozenset(KIND_CODES) - {"adder"}
"""A CPU runs everything: no kind is free or without a price."""

PRICES = (
    "kxk",
    "few",
    "pointwise",
    "depthwise",
    "linear",
    "patch",
    "pointwise_input",
    "output",
    "call",
    "elementwise",
    "weight",
)
"""Order of the prices in a law."""


def cortex_law(prices: Mapping[str, float]) -> tuple[int, ...]:
    """Prices [cycle per unit], all eleven, as the integer constants of `cycles` [1/1000 cycle]."""
    return tuple(round(1000 * prices[name]) for name in PRICES)


@njit(KERNEL_SIGNATURE)
def cycles(row: Row, law: Any) -> int:
    """Cycles of one call; `law` is the prices in the order of `PRICES` [1/1000 cycle]."""
    kind, cin, cout, k0, k1, h, w, s0, s1, groups, _, _ = row
    taps = k0 * k1
    outputs = h * w * cout
    if kind == 0 or kind == 4:  # dense, grouped or transposed convolution
        read = cin // groups
        macs = outputs * taps * read
        weights = cout * read * taps
        if read < 4:
            work = macs * law[1]
        elif taps == 1:
            work = macs * law[2]
        else:
            work = macs * law[0]
        work += h * w * taps * cin * (law[6] if taps == 1 else law[5])
        if kind == 4:
            outputs = outputs * s0 * s1
    elif kind == 1:  # depthwise
        work = outputs * taps * law[3]
        weights = cout * taps
    elif kind == 2 or kind == 3:  # linear layer, product of activations
        work = outputs * cin * law[4]
        weights = cin * cout if kind == 2 else 0
    else:
        return (outputs * taps * law[9] + law[8] + 500) // 1000
    return (work + outputs * law[7] + law[8] + weights * law[10] + 500) // 1000
