"""Targets from timings: the eleven prices of a board by maximum a posteriori, with error bars.

The time of a network is a sum of prices times counted units (`cortex_law`). A handful of timings does not determine
eleven prices, so they are drawn towards the ratios of known boards: in log prices the common scale is free, the ratios are
Gaussian around a prior, and a timing has a relative error of 6 %, mostly of the law. Solved by Gauss-Newton; the curvature
at the solution gives intervals, and says which network to time next.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nasopt.arguments import short
from nasopt.checked import checked
from nasopt.cost.latency import evaluate, rows_of
from nasopt.cost.network import calls_on_board
from nasopt.cost.targets.posterior import NOISE, Posterior
from nasopt.cost.targets.registry import get_target
from nasopt.cost.targets.target import Target
from nasopt.errors import ConfigError

Vector = NDArray[np.float64]

PRIOR = {
    "kxk": (0.84, 0.25),
    "few": (1.85, 0.4),
    "pointwise": (1.07, 0.3),
    "depthwise": (2.0, 0.45),
    "linear": (1.4, 0.5),
    "patch": (2.7, 0.8),
    "pointwise_input": (6.4, 0.8),
    "output": (8.2, 0.6),
    "call": (480.0, 1.0),
    "elementwise": (3.9, 0.7),
    "weight": (0.8, 1.0),
}
"""Price -> its ratio to the common scale, and the standard deviation of the log of that ratio between boards."""

LAYER_NOISE = 0.15
"""Relative error of the timing of a single layer under the law: much averages out over a network."""

LAYER_LIMIT = 10.0
"""A single layer may be this many times off; more is a slip of the unit."""

_LIMIT = 1.6
"""A timing that stays this many times off the law, whatever the prices, is none of the same board and stack."""
_UNLIKE = 200.0
"""A board whose cycles for the same work are so many times those of the one it is like: a slip of a unit, a thousand or more."""
_STEPS = 25
_SUSPECTS, _LONGEST = 8, 2.0  # timings of which one may contradict the others; longest step in log prices


def network_units(model: nn.Module, input_shape: Sequence[Any], label: str = "the network") -> Vector:
    """What a network counts of every price, in the order of `PRICES`: shape `(11,)`.

    Raises:
        ConfigError: with its label: it is a search model, it does not run, or holds what nobody can price.
    """
    calls = calls_on_board(model, input_shape, label)
    if calls.unpriced:
        raise ConfigError(f"{label}: nobody knows what {', '.join(calls.unpriced)} cost: time a network without")
    return units_of_rows(rows_of([call.shape for call in calls.calls])).sum(0)


def units_of_rows(rows: NDArray[np.integer[Any]]) -> Vector:
    """What layers count of every price: rows `(n, 12 columns)` -> units `(n, 11 prices)`."""
    from nasopt.cost.targets.cortex_law import PRICED, PRICES, cycles  # imports numba

    laws = [tuple(1000 * (i == j) for j in range(len(PRICES))) for i in range(len(PRICES))]
    one_price = [Target("units", "", 1.0, cycles, law, PRICED, "") for law in laws]
    return np.stack([evaluate(target, rows) for target in one_price], axis=-1).astype(np.float64)


def fit_prices(units: Vector, cycles: Vector, ratios: Vector | None = None, noise: float = NOISE) -> Posterior:
    """Prices of a board.

    Args:
        units: counted by `n` timed networks or layers, `(n, 11)`.
        cycles: what they took, `(n,)`.
        ratios: where the prior lies, `(11,)`; that of `PRIOR` if left out.
        noise: relative error of a timing under the law.
    """
    spread = np.asarray([deviation for _, deviation in PRIOR.values()])
    start = np.asarray([ratio for ratio, _ in PRIOR.values()]) if ratios is None else ratios
    scale = float(np.mean(np.log(cycles) - np.log(units @ start)))
    offsets = np.zeros(len(start))
    pull = np.concatenate([np.diag(1 / spread), np.zeros((len(start), 1))], axis=1)
    for _ in range(_STEPS):
        prices = start * np.exp(scale + offsets)
        predicted = units @ prices
        slopes = units * prices / predicted[:, None]  # d log cycles / d log prices
        slopes = np.concatenate([slopes, slopes.sum(1, keepdims=True)], axis=1) / noise
        left = np.concatenate([slopes, pull])
        right = np.concatenate([np.log(cycles / predicted) / noise, -offsets / spread])
        step = np.linalg.lstsq(left, right, rcond=None)[0]
        step = np.clip(step, -_LONGEST, _LONGEST)
        offsets, scale = offsets + step[:-1], scale + float(step[-1])
    covariance = np.linalg.inv(left.T @ left)
    return Posterior(start * np.exp(scale + offsets), covariance, noise)


@checked
def target_from_timings(
    timings: Sequence[tuple[nn.Module, Sequence[Any], float]],
    like: str | Target = "cortex_m4",
    clock_mhz: float | None = None,
    name: str = "my_board",
    ram_bytes: int = 0,
    flash_bytes: int = 0,
    active_power_mw: float = 0.0,
) -> Target:
    """A target for a board and its software stack, from a few networks timed on it.

    ```python
    board = target_from_timings([(net_a, (3, 32, 32), 41.5), (net_b, (1, 49, 10), 12.2)], like="cortex_m4", clock_mhz=64)
    cost_report(model, (3, 32, 32), targets=[board])       # with 90 % intervals
    ```

    Args:
        timings: (model, shape of one sample, milliseconds of one inference), int8 as deployed; one is enough, the error
            shrinks with every one. `suggest_calibration_models` says which ones are worth it.
        like: the shipped target whose price ratios the board starts from: a core of the same family, if there is one.
        clock_mhz: of the board [MHz]; that of `like` if left out.
        name: of the new target. It is not registered: pass it around, or call `register_target`.
        ram_bytes, flash_bytes, active_power_mw: as in `Target`.

    Raises:
        ConfigError: no timings; a time that is not a finite number above 0; timings that contradict each other, with the
            worst one; a network that cannot be priced; times a thousand off in all; `like` has another law.
    """
    base = get_target(like)
    clock = get_target(base, clock_mhz=clock_mhz).clock_mhz
    if not timings:
        raise ConfigError(
            "target_from_timings: no timings, so nothing is known of the board: time at least one network"
        )
    units: list[Vector] = []
    cycles: list[float] = []
    for number, timing in enumerate(timings, start=1):
        if not isinstance(timing, (tuple, list)) or len(timing) != 3:
            raise ConfigError(f"timing {number} is no triple: give (model, input_shape, milliseconds)")
        model, shape, ms = timing
        if isinstance(ms, bool) or not isinstance(ms, numbers.Real) or not 0 < ms < math.inf:
            raise ConfigError(f"timing {number} is {ms!r} ms: give a finite number above 0, in milliseconds")
        units.append(network_units(model, shape, f"timing {number}"))
        cycles.append(float(ms) * clock * 1e3)
    labels = [f"timing {number}" for number in range(1, len(timings) + 1)]
    posterior = fit_checked(*_once(np.stack(units), np.asarray(cycles), labels), ratios=ratios_of(base))
    return make_target(
        posterior,
        name=name,
        summary=f"{len(timings)} timed network{'s' * (len(timings) > 1)}, from the ratios of {base.name}",
        clock_mhz=clock,
        ram_bytes=ram_bytes,
        flash_bytes=flash_bytes,
        active_power_mw=active_power_mw,
        provenance=f"timings, maximum a posteriori from the prices of {base.name}",
    )


def _once(units: Vector, cycles: Vector, labels: list[str]) -> tuple[Vector, Vector, list[str]]:
    """Each network once: the error of a timing is mostly of the law, so timing a network again does not make it less.

    Raises:
        ConfigError: a network has two times.
    """
    found: dict[bytes, list[int]] = {}
    for i, counted in enumerate(units):
        found.setdefault(counted.tobytes(), []).append(i)
    for same in found.values():
        short_, long = min(same, key=lambda i: cycles[i]), max(same, key=lambda i: cycles[i])
        if cycles[long] > _LIMIT * cycles[short_]:
            raise ConfigError(
                f"the timings contradict: {labels[long]} takes {cycles[long] / cycles[short_]:.1f} times as long as "
                f"{labels[short_]}, of the same network: check unit and clock, or leave one out"
            )
    firsts = [same[0] for same in found.values()]
    means = np.asarray([np.exp(np.log(cycles[same]).mean()) for same in found.values()])
    return units[firsts], means, [labels[i] for i in firsts]


def ratios_of(target: Target) -> Vector:
    """The prices of a target with the law of eleven prices, as the place of a prior.

    Raises:
        ConfigError: it has another law.
    """
    from nasopt.cost.targets.cortex_law import PRICES, cycles  # imports numba

    if target.kernel is not cycles or len(target.law) != len(PRICES):
        raise ConfigError(
            f"{target.name!r} is no CPU with the law of eleven prices, so timings cannot start from it: use one like "
            f"cortex_m4, or write a kernel (README of nasopt/cost)"
        )
    return np.maximum(np.asarray(target.law, dtype=np.float64), 1.0) / 1000


def fit_checked(
    units: Vector,
    cycles: Vector,
    labels: Sequence[str],
    ratios: Vector,
    noise: float = NOISE,
    limit: float = _LIMIT,
) -> Posterior:
    """`fit_prices`, refusing timings that no prices can explain.

    Raises:
        ConfigError: with the worst timing, and by how much it is off; a timing of something without layers; all of them
            are far from what the board's like takes.
    """
    for label, counted in zip(labels, units, strict=True):
        if not counted.any():
            raise ConfigError(f"{label} is of something without a layer that takes time: time a network with layers")
    unlike = np.log(cycles / (units @ ratios))
    middle = float(np.median(unlike))
    if abs(middle) > math.log(_UNLIKE):
        raise ConfigError(
            f"the board takes {_times(middle)} as the one it is like for the same work: check the units of times (ms, unless "
            f"a table says another), ticks and clock (MHz)"
        )
    if np.abs(unlike - middle).max() < math.log(_UNLIKE):
        posterior = fit_prices(units, cycles, ratios, noise)
        off = np.log(cycles / (units @ posterior.prices))
        if np.abs(off).max() <= math.log(limit):
            return posterior
    else:
        off = unlike - middle
    worst, by = _contradicting(units, cycles, ratios, noise, off)
    raise ConfigError(
        f"the timings contradict: {labels[worst]} takes {_times(by)} as the others say, whatever the prices: check its "
        f"network, unit and clock, or leave it out"
    )


def _contradicting(units: Vector, cycles: Vector, ratios: Vector, noise: float, off: Vector) -> tuple[int, float]:
    """The timing without which the others agree best, and the log of how many times longer it takes than they say."""
    found = []
    for i in np.argsort(-np.abs(off), kind="stable")[:_SUSPECTS]:
        rest = np.arange(len(cycles)) != i
        prices = fit_prices(units[rest], cycles[rest], ratios, noise).prices
        by = np.log(cycles / (units @ prices))
        found.append((round(float(np.abs(by[rest]).max()), 3), int(i), float(by[i])))
    _, worst, by_others = min(found, key=lambda one: one[0])
    return worst, by_others


def _times(log: float) -> str:
    factor = math.exp(min(abs(log), 700.0))
    return f"{factor:{',.1f' if factor < 1e6 else '.3g'}} times as {'long' if log > 0 else 'short'}"


def make_target(posterior: Posterior, **fields: Any) -> Target:
    """A `Target` with fitted prices and their error bars; `fields` as in `Target`."""
    from nasopt.cost.targets.cortex_law import PRICED, PRICES, cortex_law, cycles  # imports numba

    law = cortex_law(dict(zip(PRICES, posterior.prices)))
    return Target(kernel=cycles, law=law, priced=PRICED, uncertainty=posterior, **fields)


@checked
def suggest_calibration_models(
    candidates: Mapping[str, tuple[nn.Module, Sequence[Any]]], k: int = 4, like: str | Target = "cortex_m4"
) -> list[str]:
    """Names of the `k` networks whose timings say most about the others, best first; nothing is measured for this.

    Each is the one that shrinks the summed variance of all candidates' predicted log times most, given those before it.

    Args:
        candidates: name -> (model, shape of one sample).
        k: how many to name.
        like: as in `target_from_timings`.

    Raises:
        ConfigError: fewer candidates than `k`, or `k` below 1; a candidate without layers.
    """
    if not 1 <= k <= len(candidates):
        allowed = f"give 1 to {len(candidates)}" if candidates else "give networks to choose from"
        raise ConfigError(f"suggest_calibration_models: k is {k!r} of {len(candidates)} candidates: {allowed}")
    for name, one in candidates.items():
        if not (isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], nn.Module)):
            raise ConfigError(
                f"suggest_calibration_models: candidate {name!r} is {short(one)}: give (network, shape of one sample)"
            )
    units = np.stack(
        [network_units(model, shape, f"candidate {name!r}") for name, (model, shape) in candidates.items()]
    )
    names = list(candidates)
    empty = [name for name, counted in zip(names, units) if not counted.any()]
    if empty:
        raise ConfigError(
            f"suggest_calibration_models: {', '.join(map(repr, empty))} has no layer that takes time: leave it out"
        )
    return [names[i] for i in most_telling(units, k, ratios_of(get_target(like)))]


def most_telling(units: Vector, k: int, ratios: Vector | None = None) -> list[int]:
    """`suggest_calibration_models` for networks that count `units` `(n, 11)`: their indices."""
    prices = np.asarray([ratio for ratio, _ in PRIOR.values()]) if ratios is None else ratios
    slopes = units * prices / (units @ prices)[:, None]
    slopes = np.concatenate([slopes, np.ones((len(slopes), 1))], axis=1)
    # A board of which nothing is known: its scale may be anything within a factor of ten.
    covariance = np.diag([*(deviation**2 for _, deviation in PRIOR.values()), math.log(10.0) ** 2])
    chosen: list[int] = []
    for _ in range(k):
        after = {i: _timed(covariance, slopes[i]) for i in range(len(slopes)) if i not in chosen}
        best = min(after, key=lambda i: float(np.einsum("ni,ij,nj->", slopes, after[i], slopes)))
        chosen.append(best)
        covariance = after[best]
    return chosen


def _timed(covariance: Vector, slope: Vector) -> Vector:
    """Covariance once a network with these slopes has been timed."""
    column = covariance @ slope
    return covariance - np.outer(column, column) / (NOISE**2 + slope @ column)
