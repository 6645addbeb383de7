"""Schedules of a setting over the epochs of a search: constant, linear, exponential."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nasopt.arguments import check_number
from nasopt.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """A number that goes from `start` to `end` within `epochs`, and stays there.

    Attributes:
        kind: `"constant"`, `"linear"`, or `"exponential"` (by equal factors).
        start: value at epoch 0.
        end: value from epoch `epochs` on.
        epochs: length of the way [epochs], may be a fraction.
    """

    kind: Literal["constant", "linear", "exponential"]
    start: float
    end: float
    epochs: float

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: unknown kind, a number that is not finite, no epochs, or an exponential way to or from 0.
        """
        if self.kind not in ("constant", "linear", "exponential"):
            raise ConfigError(f"unknown schedule {self.kind!r}: known are constant, linear, exponential")
        check_number("a schedule: start", self.start)
        check_number("a schedule: end", self.end)
        check_number("a schedule: epochs", self.epochs, above=0)
        if self.kind == "exponential" and min(self.start, self.end) <= 0:
            raise ConfigError(f"an exponential schedule goes between numbers > 0, got {self.start} to {self.end}")

    def __call__(self, epoch: float) -> float:
        """Value at an epoch, which counts from 0.

        Raises:
            ConfigError: the epoch is no finite number >= 0.
        """
        check_number("a schedule: epoch", epoch, 0)
        way = min(max(epoch / self.epochs, 0.0), 1.0)
        if self.kind == "exponential":
            return self.start * (self.end / self.start) ** way
        return self.start + (self.end - self.start) * (way if self.kind == "linear" else 0.0)


def constant(value: float) -> Schedule:
    """Always `value`."""
    return Schedule("constant", value, value, 1)


def linear(start: float, end: float, epochs: float) -> Schedule:
    """From `start` to `end` in equal steps."""
    return Schedule("linear", start, end, epochs)


def exponential(start: float, end: float, epochs: float) -> Schedule:
    """From `start` to `end` by equal factors, as usual for a temperature: `exponential(5.0, 0.5, epochs=40)`."""
    return Schedule("exponential", start, end, epochs)
