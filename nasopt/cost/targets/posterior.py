"""`Posterior`: fitted prices of a board, and how far a prediction with them may be off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NOISE = 0.06
"""Relative error of a timing under the law of eleven prices, one standard deviation."""

_NINETY_PERCENT = 1.645
"""Half width of the central 90 % of a Gaussian, in standard deviations."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """Prices of a board with their uncertainty.

    Attributes:
        prices: `(11,)` [cycle per unit], in the order of `PRICES`.
        covariance: of the log ratios and the log scale, `(12, 12)`.
        noise: relative error that the law has for one network.
    """

    prices: NDArray[np.float64]
    covariance: NDArray[np.float64]
    noise: float

    @classmethod
    def of(cls, prices: Sequence[float], covariance: Sequence[Sequence[float]], noise: float) -> Posterior:
        """From lists, as files hold them."""
        return cls(np.asarray(prices, dtype=np.float64), np.asarray(covariance, dtype=np.float64), noise)

    def factor(self, units: NDArray[np.float64]) -> float:
        """`f >= 1`: 90 % of the times of a network that counts these units lie within `t / f` and `t f`."""
        share = units * self.prices
        slope = np.append(share / share.sum(), 1.0)
        return float(np.exp(_NINETY_PERCENT * np.sqrt(slope @ self.covariance @ slope + self.noise**2)))
