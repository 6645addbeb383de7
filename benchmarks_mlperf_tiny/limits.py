"""What a search is to reach, read from the command line: budgets, goals, ranges and lists of strengths, seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.measure import COSTS, TARGETS
from nasopt import Budget
from nasopt.errors import nearest

Number = TypeVar("Number", int, float)
LIMITED = ("macs", "size", "memory", *(f"{target}_ms" for target in TARGETS))
CURE = f"give metric=limit, like macs=0.5 (half of the seed's) or size=20000,cortex_m4_ms=50; metrics: {', '.join(LIMITED)}"


@dataclass(frozen=True)
class Limit:
    """An upper limit of one cost.

    Attributes:
        metric: one of `LIMITED`, columns of `networks.csv`.
        value: in the unit of the metric, or as a share of the seed's cost.
        share: which of the two.
    """

    metric: str
    value: float
    share: bool

    @property
    def metric_name(self) -> str:
        """Name of the metric in nasopt."""
        return f"latency_ms:{self.metric.removesuffix('_ms')}" if self.metric.endswith("_ms") else self.metric


def parse_budget(text: str) -> tuple[Limit, ...]:
    """Limits in `"metric=limit,..."`.

    A limit below 1 on MACs, size or memory is a share of the seed's cost; every other one has the unit of its metric.

    Raises:
        BenchmarkError: not that, or limits that make no sense.
    """
    limits = []
    for part in text.split(","):
        metric, _, number = part.partition("=")
        if metric not in LIMITED:
            raise BenchmarkError(f"budget {text!r}: unknown metric {metric!r}: {CURE}.{nearest(metric, LIMITED)}")
        try:
            value = float(number)
        except ValueError as error:
            raise BenchmarkError(f"budget {text!r}: {number!r} is no number: {CURE}") from error
        if not 0 < value < math.inf:
            raise BenchmarkError(f"budget {text!r}: the limit on {metric} must be finite and positive: {CURE}")
        limits.append(Limit(metric, value, share=value < 1 and not metric.endswith("_ms")))
    if len({limit.metric for limit in limits}) < len(limits):
        raise BenchmarkError(f"budget {text!r}: a metric is limited twice: {CURE}")
    return tuple(limits)


def budget_series(text: str) -> list[str]:
    """`"macs=0.1:0.8:4"` as four budgets, by equal factors; any other text as it is.

    Raises:
        BenchmarkError: the series makes no sense.
    """
    metric, _, series = text.partition("=")
    if ":" not in series or "," in text:
        return [text]
    return [f"{metric}={value:g}" for value in parse_strengths(series)]


def absolute(text: str, seed_costs: dict[str, Any]) -> list[tuple[Limit, float]]:
    """Every limit of a text, and its value in the unit of its metric."""
    return [
        (limit, limit.value * (float(seed_costs[limit.metric]) if limit.share else 1.0)) for limit in parse_budget(text)
    ]


def make_budget(text: str, seed_costs: dict[str, Any]) -> Budget:
    """The `nasopt.Budget` of a text; `seed_costs` are those of `measure.costs`."""
    return Budget({limit.metric_name: most for limit, most in absolute(text, seed_costs)})


def kept(text: str, seed: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether costs of a found network are inside all limits. Costs of both as in a summary."""
    return all(float(found[limit.metric]) <= most for limit, most in absolute(text, seed))


@dataclass(frozen=True)
class Goal:
    """A wanted trade-off: the figure of merit up, a cost down, within limits where they are given.

    Attributes:
        cost: column of `networks.csv`.
        max_cost: largest cost that is wanted, in the unit of that column; None: any.
        min_figure: smallest figure on the val split that is wanted; None: any.

    Raises:
        BenchmarkError: unknown cost, or a limit that makes no sense.
    """

    cost: str = "macs"
    max_cost: float | None = None
    min_figure: float | None = None

    def __post_init__(self) -> None:
        if self.cost not in COSTS:
            raise BenchmarkError(
                f"unknown cost {self.cost!r}: known are {', '.join(COSTS)}.{nearest(self.cost, COSTS)}"
            )
        if self.max_cost is not None and not 0 < self.max_cost < math.inf:
            raise BenchmarkError(
                f"largest cost {self.max_cost:g}: it must be finite and positive, in units of {self.cost}"
            )
        if self.min_figure is not None and not 0 < self.min_figure <= 1:
            raise BenchmarkError(
                f"smallest figure {self.min_figure:g}: figures lie above 0 and up to 1, give 0.95 for 95 %"
            )

    def violations(self, figure: float, cost: float) -> dict[str, float]:
        """By how much the limits are missed: positive numbers, relative to the limit."""
        limits = {}
        if self.max_cost is not None:
            limits["cost"] = cost / self.max_cost - 1
        if self.min_figure is not None:
            limits["figure"] = 1 - figure / self.min_figure
        return limits


def _numbers(parts: Sequence[str], kind: Callable[[str], Number], what: str, cure: str) -> list[Number]:
    try:
        values = [kind(part) for part in parts]
    except ValueError as error:
        raise BenchmarkError(f"{what} cannot be read ({error}): {cure}") from error
    return values


def parse_range(text: str) -> tuple[float, float]:
    """`"low:high"`.

    Raises:
        BenchmarkError: not that, or numbers that make no sense as strengths.
    """
    what, cure = f"range of strengths {text!r}", "give low:high, like 0.1:30, and the number of networks as --trials"
    values = _numbers(text.split(":"), float, what, cure)
    if len(values) != 2 or not 0 < values[0] < values[1] < math.inf:
        raise BenchmarkError(f"{what}: it must be two numbers, finite, positive and rising: {cure}")
    return values[0], values[1]


def parse_strengths(text: str) -> list[float]:
    """`"low:high:count"` (a geometric series) or `"a,b,c"`.

    Raises:
        BenchmarkError: not that, or numbers that make no sense as strengths.
    """
    what, cure = f"strengths {text!r}", "give low:high:count, like 0.1:10:8, or a list, like 0.1,1,10"
    if ":" not in text:
        values = _numbers(text.split(","), float, what, cure)
        if not all(0 <= value < math.inf for value in values):
            raise BenchmarkError(f"{what}: they must be finite and positive: {cure}")
        if len(set(values)) < len(values):
            raise BenchmarkError(f"{what}: a value is there twice: {cure}")
        return values
    *ends, count_text = text.split(":")
    (count,) = _numbers([count_text], int, what, cure)
    low, high = _numbers(ends, float, what, cure) if len(ends) == 2 else (0.0, 0.0)
    if not 0 < low <= high < math.inf or count < 1 or (count == 1) != (high == low):
        raise BenchmarkError(f"{what}: no series of {count} finite, positive numbers from {low:g} to {high:g}: {cure}")
    ratio = (high / low) ** (1 / max(count - 1, 1))
    return [float(f"{low * ratio**index:.4g}") for index in range(count)]


def parse_seeds(text: str) -> list[int]:
    """`"0,1,2"`.

    Raises:
        BenchmarkError: not a list of different whole numbers.
    """
    values = _numbers(text.split(","), int, f"seeds {text!r}", "give a list, like 0,1,2")
    if len(set(values)) < len(values):
        raise BenchmarkError(f"seeds {text!r}: one is there twice: give a list, like 0,1,2")
    return values
