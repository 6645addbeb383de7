"""Signature of compiled latency kernels, and the loop that runs one over a batch. Importing this imports numba."""

from __future__ import annotations

from typing import Any

from nasopt.compiled import njit, numba
from nasopt.cost.targets.rows import Row

int64, types = numba.int64, numba.types
_ROW = types.NamedUniTuple(int64, len(Row._fields), Row)

KERNEL_SIGNATURE = int64(_ROW, int64[::1])
"""`cycles(row, law)`: a `Row` of int64 and the target's constants, an int64 array -> int64."""

_KERNEL = types.FunctionType(KERNEL_SIGNATURE)


@njit([types.void(_KERNEL, int64[:, :, ::1], int64[::1], int64[::1])])
def sum_rows(kernel: Any, rows: Any, law: Any, totals: Any) -> None:
    """Fill `totals` (n,) with the sums of the kernel's values over the rows of `rows` (n, l, 12)."""
    for n in range(rows.shape[0]):
        total = 0
        for i in range(rows.shape[1]):
            r = rows[n, i]
            total += kernel(Row(r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11]), law)
        totals[n] = total
