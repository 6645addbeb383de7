"""Packed weights: integers of any width, low bits first, every row padded to whole bytes."""

from __future__ import annotations

import numpy as np

from nasopt.errors import ExportError
from nasopt.export.integer.arithmetic import Array


def pack(rows: Array, bits: int, layer: str = "") -> Array:
    """`(rows, bytes)` uint8 of `(rows, integers)` of 1 to 8 bits, two's complement; of one bit, 1 stands for +1 and 0 for -1.

    ```python
    pack(np.array([[1, 2, 3, 4]]), 4)  # 0x21 0x43
    ```

    Raises:
        ExportError: one bit and a weight that is neither.
    """
    if bits == 1:
        if (np.abs(rows) != 1).any():
            raise ExportError(f"layer {layer!r}: a weight of 1 bit is 0, which no file can hold: give the layer 2 bits")
        rows = rows > 0
    unsigned = rows.astype(np.int64) & (2**bits - 1)
    split = (unsigned[:, :, None] >> np.arange(bits) & 1).astype(np.uint8)
    return np.packbits(split.reshape(len(rows), -1), axis=1, bitorder="little")


def row_bytes(length: int, bits: int) -> int:
    """Bytes of a packed row."""
    return -(-length * bits // 8)
