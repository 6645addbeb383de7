"""Which trade-off between figure of merit and cost is wanted?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.measure import COSTS
from nasopt.errors import nearest


@dataclass(frozen=True)
class Goal:
    """A wanted trade-off: the figure of merit up, a cost down, within limits where they are given.

    Attributes:
        cost: column of `networks.csv`.
        max_cost: largest cost that is wanted, in the unit of that column; None: any.
        min_figure: smallest figure on the val split that is wanted; None: any.
    """

    cost: str = "macs"
    max_cost: float | None = None
    min_figure: float | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            BenchmarkError: unknown cost, or a limit that makes no sense.
        """
        if self.cost not in COSTS:
            raise BenchmarkError(
                f"unknown cost {self.cost!r}: known are {', '.join(COSTS)}.{nearest(self.cost, COSTS)}"
            )
        if self.max_cost is not None and not (math.isfinite(self.max_cost) and self.max_cost > 0):
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


def parse_range(text: str) -> tuple[float, float]:
    """`"low:high"`.

    Raises:
        BenchmarkError: not that, or numbers that make no sense as strengths.
    """
    cure = "give low:high, like 0.1:30, and the number of networks as --trials"
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise BenchmarkError(f"range of strengths {text!r} cannot be read ({error}): {cure}") from error
    if not (0 < low < high < math.inf):
        raise BenchmarkError(f"range of strengths {text!r}: it must be finite, positive and rising: {cure}")
    return low, high
