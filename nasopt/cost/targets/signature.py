"""With which compiled signature do kernels meet the batch loop? Importing this module imports numba."""

from __future__ import annotations

from typing import Any

from numba import int64, njit, types

KERNEL_SIGNATURE = int64(*([int64] * 11), int64[::1])
"""`cycles(kind, in, out, k0, k1, h, w, s0, s1, groups, bits, law)`: eleven int64 and one int64 array -> int64."""

_KERNEL = types.FunctionType(KERNEL_SIGNATURE)


@njit([types.void(_KERNEL, int64[:, :, ::1], int64[::1], int64[::1])], cache=True)
def sum_rows(kernel: Any, rows: Any, law: Any, totals: Any) -> None:
    """Fill `totals` (n,) with the sums of the kernel's values over the rows of `rows` (n, l, 11)."""
    for n in range(rows.shape[0]):
        total = 0
        for i in range(rows.shape[1]):
            r = rows[n, i]
            total += kernel(r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], law)
        totals[n] = total
