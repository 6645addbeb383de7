"""Moves as loops: an index of elements, cut into boxes in which the source is linear in the position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nasopt.export.integer.arithmetic import Array

# More boxes than this are dearer than a table.
MOST = 48


@dataclass(frozen=True)
class Box:
    """`out[origin + i] = source[first + sum of i stride]` for i below `sizes`; source -1: zeros."""

    source: int
    origin: tuple[int, ...]
    sizes: tuple[int, ...]
    first: int
    strides: tuple[int, ...]


# Between the numbers of two sources: no stride is as long.
_APART = 2**40


def boxes(index: Array, counts: Sequence[int]) -> list[Box] | None:
    """Boxes that cover an index as the step `move` has it, of sources of so many elements; None where there would be too many."""
    source = np.searchsorted(np.cumsum([1, *counts]), index, side="right") - 1  # -1: a zero
    starts = np.cumsum([1, *counts])[source]
    apart = np.where(source < 0, -_APART, source * _APART + index - starts)
    found: list[Box] = []
    queue = [((0,) * index.ndim, apart)]
    while queue:
        origin, part = queue.pop()
        axis, length = _linear(part)
        if length == part.shape[axis]:
            found.append(_box(origin, part))
        else:
            before, after = np.split(part, [length], axis)
            queue += [(origin, before), (tuple(o + length * (d == axis) for d, o in enumerate(origin)), after)]
        if len(found) + len(queue) > MOST:
            return None
    return sorted(found, key=lambda box: box.origin)


def _strides(part: Array) -> list[int]:
    corner = (0,) * part.ndim
    return [
        int(part[(*corner[:d], 1, *corner[d + 1 :])] - part[corner]) if part.shape[d] > 1 else 0
        for d in range(part.ndim)
    ]


def _linear(part: Array) -> tuple[int, int]:
    """A dimension and how far along it all is linear and of one source: its whole length where that is everything."""
    strides = _strides(part)
    far = next((d for d, stride in enumerate(strides) if abs(stride) >= _APART // 2), None)
    if far is not None:
        return far, 1
    wanted = part[(0,) * part.ndim] + sum(
        np.arange(n).reshape([-1 if d == axis else 1 for d in range(part.ndim)]) * stride
        for axis, (n, stride) in enumerate(zip(part.shape, strides))
    )
    wrong = np.broadcast_to(wanted, part.shape) != part
    if not wrong.any():
        return 0, part.shape[0]
    # The outermost dimension along which a beginning is linear.
    begins = [int(np.argmax(wrong.any(tuple(d for d in range(part.ndim) if d != axis)))) for axis in range(part.ndim)]
    wide = next(axis for axis, size in enumerate(part.shape) if size > 1)
    return next(((axis, good) for axis, good in enumerate(begins) if good > 0), (wide, 1))


def _box(origin: tuple[int, ...], part: Array) -> Box:
    first = int(part[(0,) * part.ndim])
    if first < 0:
        return Box(-1, origin, part.shape, 0, (0,) * part.ndim)
    return Box(first // _APART, origin, part.shape, first % _APART, tuple(_strides(part)))
