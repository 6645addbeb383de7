"""Cycles of a layer between measured ones: piecewise linear in the MACs, kind by kind."""

from __future__ import annotations

from typing import Any

from numba import njit

from nasopt.cost.targets.rows import Row
from nasopt.cost.targets.signature import KERNEL_SIGNATURE


@njit(KERNEL_SIGNATURE, cache=True)
def cycles(row: Row, law: Any) -> int:
    """Cycles of one call; `law` holds the points of each class as `target_from_table` flattens them."""
    macs = row.h * row.w * row.k0 * row.k1 * row.cout
    if row.kind != 1:
        macs = macs * row.cin // row.groups
    at = row.kind + 1
    if row.kind == 0:
        at = 1 if row.k0 * row.k1 == 1 else 0
    start = law[at]
    points = (law[at + 1] - start) // 2
    if points == 0:  # measured 1x1 but not k x k convolutions, or the other way round
        at = 1 - at
        start = law[at]
        points = (law[at + 1] - start) // 2
    i = 0  # segment from point i to point i + 1
    while i + 2 < points and macs > law[start + 2 * i + 2]:
        i += 1
    x0, y0 = law[start + 2 * i], law[start + 2 * i + 1]
    x1, y1 = law[start + 2 * i + 2], law[start + 2 * i + 3]
    between = y0 + ((macs - x0) * (y1 - y0) + (x1 - x0) // 2) // (x1 - x0)
    if macs < x0:
        return max(between, y0 * macs // x0)
    return between
