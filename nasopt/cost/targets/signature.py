"""With which compiled signature do kernels meet the batch loop? Importing this module imports numba."""

from __future__ import annotations

from typing import Any

from numba import int64, njit, types

KERNEL_SIGNATURE = int64(*([int64] * 11), int64[::1])
"""`cycles(kind, in, out, k0, k1, h, w, s0, s1, groups, bits, law)`: eleven int64 and one int64 array -> int64."""

_KERNEL = types.FunctionType(KERNEL_SIGNATURE)


@njit([types.void(_KERNEL, int64[:, ::1], int64[::1], int64[::1])], cache=True)
def evaluate_rows(kernel: Any, rows: Any, law: Any, cycles: Any) -> None:
    """Fill `cycles` (n,) with the kernel's value of every row of `rows` (n, 11)."""
    for i in range(rows.shape[0]):
        row = rows[i]
        cycles[i] = kernel(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], row[9], row[10], law)
