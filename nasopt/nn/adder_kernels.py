"""Compiled loops of adder layers on a CPU, float32: several times faster in one thread than what torch offers."""

from __future__ import annotations

from typing import Any

from nasopt.compiled import njit

# Sums may be reordered, which vectorises them; values that are not finite keep their meaning.
_FAST = {"reassoc", "nsz", "contract"}


@njit(fastmath=_FAST)
def distances(x: Any, weight: Any, out: Any) -> None:
    """`out[g, n, t] = -sum_k |x[g, n, k] - weight[g, t, k]|` for `(G, N, K), (G, T, K)`."""
    groups, count, taps = x.shape
    for g in range(groups):
        for n in range(count):
            for t in range(weight.shape[1]):
                total = x.dtype.type(0)
                for k in range(taps):
                    total += abs(x[g, n, k] - weight[g, t, k])
                out[g, n, t] = -total


@njit(fastmath=_FAST)
def to_inputs(gradient: Any, x: Any, weight: Any, out: Any) -> None:
    """`out[g, n, k] += sum_t gradient[g, n, t] clip(weight[g, t, k] - x[g, n, k], -1, 1)`."""
    groups, count, taps = x.shape
    one = x.dtype.type(1)
    for g in range(groups):
        for n in range(count):
            for t in range(weight.shape[1]):
                factor = gradient[g, n, t]
                for k in range(taps):
                    out[g, n, k] += factor * min(max(weight[g, t, k] - x[g, n, k], -one), one)


@njit(fastmath=_FAST)
def per_tap(gradient: Any, x: Any, weight: Any, out: Any) -> None:
    """`out[k] += sum_{g, n, t} gradient[g, n, t] |weight[g, t, k] - x[g, n, k]|`."""
    groups, count, taps = x.shape
    for g in range(groups):
        for n in range(count):
            for t in range(weight.shape[1]):
                factor = gradient[g, n, t]
                for k in range(taps):
                    out[k] += factor * abs(weight[g, t, k] - x[g, n, k])
