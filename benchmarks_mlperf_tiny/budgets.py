"""Which limits must a found network keep? `--budget` as plain text, read and made a `nasopt.Budget`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.measure import TARGETS
from nasopt.errors import nearest

UNITS = {"macs": "MAC", "size": "weights", "memory": "bytes", **{f"{target}_ms": "ms" for target in TARGETS}}
CURE = "give metric=limit, like macs=0.5 (half of the seed's) or size=20000,cortex_m4_ms=50; metrics: " + ", ".join(
    UNITS
)


@dataclass(frozen=True)
class Limit:
    """An upper limit of one cost.

    Attributes:
        metric: one of `UNITS`.
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
        if metric not in UNITS:
            raise BenchmarkError(f"budget {text!r}: unknown metric {metric!r}: {CURE}.{nearest(metric, UNITS)}")
        try:
            value = float(number)
        except ValueError as error:
            raise BenchmarkError(f"budget {text!r}: {number!r} is no number: {CURE}") from error
        if not 0 < value < math.inf:
            raise BenchmarkError(f"budget {text!r}: the limit on {metric} must be finite and positive: {CURE}")
        limits.append(Limit(metric, value, share=value < 1 and UNITS[metric] != "ms"))
    if len({limit.metric for limit in limits}) < len(limits):
        raise BenchmarkError(f"budget {text!r}: a metric is limited twice: {CURE}")
    return tuple(limits)


def absolute(text: str, seed_costs: dict[str, Any]) -> list[tuple[Limit, float]]:
    """Every limit of a text, and its value in the unit of its metric."""
    return [
        (limit, limit.value * (float(seed_costs[limit.metric]) if limit.share else 1.0)) for limit in parse_budget(text)
    ]


def make_budget(text: str, seed_costs: dict[str, Any]) -> Any:
    """The `nasopt.Budget` of a text; `seed_costs` are those of `measure.costs`."""
    from nasopt import Budget

    return Budget({limit.metric_name: most for limit, most in absolute(text, seed_costs)})


def kept(text: str, seed: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether costs of a found network are inside all limits. Costs of both as in a summary."""
    return all(float(found[limit.metric]) <= most for limit, most in absolute(text, seed))
