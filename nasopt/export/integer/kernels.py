"""Kernels of an integer program's steps, in NumPy: exact sums of products of integers, poolings, tables, moves.

Every value is an array `(samples, *shape of one sample)`; the shape of one sample is that of a batch of one, its leading
dimension included.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nasopt.export.integer.arithmetic import Array, rescale, rescale_sum
from nasopt.export.integer.padding import padded
from nasopt.export.integer.parts import Step

# What fits into an accumulator of a chip.
LIMIT = 2**31


def _checked(total: Array, step: Step) -> Array:
    if total.size and max(int(total.max()), -int(total.min())) >= LIMIT:
        raise OverflowError(f"a sum of step {step.output!r} does not fit into 32 bits")
    return total.astype(np.int64)


def _finish(total: Array, step: Step, spread: Callable[[Array], Array] = lambda x: x) -> Array:
    """Rescaled, where the step has a multiplier, and clipped."""
    if "multiplier" in step.arrays:
        total = rescale(total, spread(step.arrays["multiplier"]), spread(step.arrays["shift"]))
    low, high = step.settings.get("low"), step.settings.get("high")
    return total if low is None and high is None else np.clip(total, low, high)


def _per_channel(rank: int) -> Callable[[Array], Array]:
    return lambda x: x.reshape(-1, *[1] * rank)


def accumulate(step: Step, x: Array) -> Array:
    """Convolutions and products with a matrix: sums of weight times input, plus bias."""
    weight = step.arrays["weight"].astype(np.float64)
    kind, lead = step.settings["kind"], x.shape[:2]
    if kind == "linear":
        total = x.astype(np.float64) @ weight.T + step.arrays["bias"]
        return _finish(_checked(total, step), step)
    x = x.reshape(-1, *x.shape[2:]).astype(np.float64)
    total = _convolution(step, x, weight) if kind == "conv" else _transposed(step, x, weight)
    spread = _per_channel(x.ndim - 2)
    found = _finish(_checked(total + spread(step.arrays["bias"]), step), step, spread)
    return found.reshape(*lead, *found.shape[1:])


def _taps(step: Step, kernel: Sequence[int]) -> Any:
    return itertools.product(*(range(size) for size in kernel))


def _grouped(weight: Array, x: Array, groups: int) -> Array:
    """`(out, in/groups)` times `(samples, in, positions)`, every group on its own; sums of integers below 2^53 are exact."""
    samples, channels, positions = x.shape
    rows = weight.reshape(groups, -1, channels // groups)
    return (rows @ x.reshape(samples, groups, channels // groups, positions)).reshape(samples, -1, positions)


def _convolution(step: Step, x: Array, weight: Array) -> Array:
    s = step.settings
    kernel, (samples, channels) = weight.shape[2:], x.shape[:2]
    x = padded(x, list(zip(s["before"], s["after"])))
    out = [
        (size - d * (k - 1) - 1) // stride + 1
        for size, d, k, stride in zip(x.shape[2:], s["dilation"], kernel, s["stride"])
    ]
    total = np.zeros((samples, len(weight), int(np.prod(out))))
    for tap in _taps(step, kernel):
        window = tuple(
            slice(t * d, t * d + stride * (n - 1) + 1, stride)
            for t, d, stride, n in zip(tap, s["dilation"], s["stride"], out)
        )
        part = np.ascontiguousarray(x[(slice(None), slice(None), *window)]).reshape(samples, channels, -1)
        total += _grouped(np.ascontiguousarray(weight[(slice(None), slice(None), *tap)]), part, s["groups"])
    return total.reshape(samples, -1, *out)


def _transposed(step: Step, x: Array, weight: Array) -> Array:
    s = step.settings
    kernel, groups, samples = weight.shape[2:], s["groups"], len(x)
    per_group, out = weight.shape[1], s["size"]
    whole = [
        max(stride * (n - 1) + d * (k - 1) + 1, before + size)
        for n, stride, d, k, before, size in zip(x.shape[2:], s["stride"], s["dilation"], kernel, s["before"], out)
    ]
    total = np.zeros((samples, groups * per_group, *whole))
    flat = x.reshape(samples, x.shape[1], -1)
    for tap in _taps(step, kernel):
        columns = weight[(slice(None), slice(None), *tap)].reshape(groups, -1, per_group).transpose(0, 2, 1)
        part = _grouped(np.ascontiguousarray(columns), flat, groups)
        place = tuple(
            slice(t * d, t * d + stride * (n - 1) + 1, stride)
            for t, d, stride, n in zip(tap, s["dilation"], s["stride"], x.shape[2:])
        )
        total[(slice(None), slice(None), *place)] += part.reshape(samples, -1, *x.shape[2:])
    inner = tuple(slice(before, before + size) for before, size in zip(s["before"], out))
    return total[(slice(None), slice(None), *inner)]


def affine(step: Step, x: Array) -> Array:
    """A norm of its own: `sign x + bias` per channel."""
    spread = _per_channel(x.ndim - 3)
    total = spread(step.arrays["sign"].astype(np.int64)) * x + spread(step.arrays["bias"].astype(np.int64))
    return _finish(_checked(total, step), step, spread)


def add(step: Step, x: Array, y: Array) -> Array:
    """The sum of two values on grids of their own."""
    x, y = _level(x, y)
    return _finish(rescale_sum(x, y, step.settings["first"], step.settings["second"], step.settings["n"]), step)


def multiply(step: Step, x: Array, y: Array) -> Array:
    """Element by element."""
    x, y = _level(x, y)
    return _finish(_checked(x * y, step), step)


def matmul(step: Step, x: Array, y: Array) -> Array:
    """A product of matrices of activations."""
    x, y = _level(x, y)
    return _finish(_checked(x.astype(np.float64) @ y.astype(np.float64), step), step)


def _level(x: Array, y: Array) -> tuple[Array, Array]:
    """With equally many dimensions, the missing ones behind the first."""
    rank = max(x.ndim, y.ndim)
    return tuple(v.reshape(len(v), *[1] * (rank - v.ndim), *v.shape[1:]) for v in (x, y))  # type: ignore[return-value]


def pool(step: Step, x: Array) -> Array:
    """Sums or largest values of windows: from `start` to `end` along each dimension, every `dilation`-th."""
    s = step.settings
    largest = s["function"] == "max"
    for axis, (dim, dilation) in enumerate(zip(s["dims"], s["dilation"])):
        at = dim + 1
        parts = []
        for start, end in zip(step.arrays[f"start{axis}"].tolist(), step.arrays[f"end{axis}"].tolist()):
            window = x[(slice(None),) * at + (slice(start, end, dilation),)]
            parts.append(window.max(at) if largest else window.sum(at))
        x = np.stack(parts, at)
    if not largest:
        x = _checked(4 * x.astype(np.int64) + 1 if s.get("quarters") else x, step)
    return _finish(x, step).reshape(len(x), *s["shape"])


def table(step: Step, x: Array) -> Array:
    """Any function of one value."""
    entries, places = step.arrays["entries"].astype(np.int64), x - step.settings["first"]
    if "channels" not in step.settings:
        return entries[places]  # type: ignore[no-any-return]
    rows = np.arange(len(entries)).reshape(-1, *[1] * (x.ndim - 3))  # channels come behind samples and the batch of one
    return entries[rows, places]  # type: ignore[no-any-return]


def requantise(step: Step, x: Array) -> Array:
    """The same value on another grid, or clipped."""
    return _finish(x, step)


def extreme(step: Step, x: Array, y: Array) -> Array:
    """The larger or the smaller of two values on one grid."""
    x, y = _level(x, y)
    return np.maximum(x, y) if step.settings["function"] == "max" else np.minimum(x, y)


def move(step: Step, *sources: Array) -> Array:
    """Elements of all sources, one after the other; 0 is a zero."""
    samples = len(sources[0])
    flat = np.concatenate([np.zeros((samples, 1), np.int64), *(x.reshape(samples, -1) for x in sources)], 1)
    return flat[:, step.arrays["index"].reshape(-1)].reshape(samples, *step.arrays["index"].shape)


def reshape(step: Step, x: Array) -> Array:
    """The same elements in the same order."""
    return x.reshape(len(x), *step.settings["shape"])


KERNELS: dict[str, Callable[..., Array]] = {
    one.__name__: one
    for one in (accumulate, affine, add, multiply, matmul, pool, table, requantise, extreme, move, reshape)
}
