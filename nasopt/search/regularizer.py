"""Which cost does a search pay? A weighted sum of metrics, absolute or as a fraction of the seed's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nasopt.cost import AnyMetric, get_metric
from nasopt.errors import ConfigError
from nasopt.search.budget import Budget


@dataclass(frozen=True)
class Regularizer:
    """Metrics with weights.

    Attributes:
        weights: (metric, weight) pairs.
        relative: whether every metric is divided by its value for the seed.
        limits: (metric, limit) pairs of a budget, which takes the place of the weights.
    """

    weights: tuple[tuple[AnyMetric, float], ...]
    relative: bool = False
    limits: tuple[tuple[AnyMetric, float], ...] = ()


def make_regularizer(regularizer: Any, relative: bool = False) -> Regularizer:
    """From a metric's name, a metric, a dict of several with weights, or a `Budget`.

    Raises:
        ConfigError: `relative` with a budget, an unknown name, an empty dict, or a weight that is not a finite number >= 0.
    """
    if isinstance(regularizer, Budget):
        if relative:
            raise ConfigError("relative=True with a Budget: limits are absolute, so leave relative out")
        return Regularizer(tuple((metric, 1.0) for metric, _ in regularizer.limits), limits=regularizer.limits)
    given = regularizer if isinstance(regularizer, Mapping) else {regularizer: 1.0}
    if not given:
        raise ConfigError("regularizer is an empty dict: name at least one metric, e.g. {'macs': 1.0}")
    weights = []
    for metric, weight in given.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight) or weight < 0:
            raise ConfigError(f"regularizer: the weight of {metric!r} must be a finite number >= 0, got {weight!r}")
        weights.append((get_metric(metric), float(weight)))
    return Regularizer(tuple(weights), relative)
