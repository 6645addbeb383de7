"""Regularizer and Budget: what a search pays for, as weighted costs or as upper limits (augmented Lagrangian).

A `Budget` is an augmented Lagrangian: with `g_i = cost_i / limit_i - 1` the penalty is the sum of `max(0, l_i + r_i g_i)^2 /
(2 r_i)`. The multipliers `l_i` change by `r_i min(g_i, 1)` per training step, and the `r_i` grow by 2 % while a limit is
violated, so the penalty finds the scale of the task's loss by itself; inside the limits it fades to zero. (A violation counts as
1 at most, so that pressure goes as fast as it came.) Source: Nocedal and Wright, Numerical Optimization, 2nd edition, chapter
17.3-17.4. The multipliers change when the penalty is differentiated, in the backward pass of a training step. Reading a cost,
a summary or the penalty itself changes nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.arguments import check_flag, check_number, short
from nasopt.cost import AnyMetric, Target, get_metric
from nasopt.cost.latency import energy_metric, latency_metric
from nasopt.errors import BudgetWarning, ConfigError, NoEffectWarning, nearest

FEWEST = 40
"""Steps of the shortest search by importance."""
START = 1e-2
"""First `r`: the pressure on a network at twice its limit, relative to a task loss of the order of 1."""
_GROWTH = 1.02
_MOST = 100.0


TargetLimit = tuple[str | Target, float]
TargetLimits = TargetLimit | Sequence[TargetLimit]


@dataclass(frozen=True, init=False)
class Budget:
    """Limits as a regularizer: the search ends inside all of them, and there is no strength to tune.

    ```python
    model = PIT(seed, (3, 32, 32), regularizer=Budget(size=40_000, memory=65_536, latency=("cortex_m4", 30)))
    loss = criterion(model(x), y) + model.get_regularization_loss()
    ```

    Args:
        limits: `{metric: limit}` for any metric, by name or object, or a target (cycles).
        latency: `(target, milliseconds)`, or a list of such pairs.
        energy: `(target, microjoules)`, or a list of such pairs.
        named: limits of metrics by name: `size` [weights], `macs` [MAC], `memory` [B], `size_bits` [bit], ...;
            `memory=("tflm", 65_536)` is `{"memory:tflm": 65_536}`, and `flash` alike.
        steps: length of the search [backward passes], e.g. `epochs * len(loader)`. With it limits fall from the seed's cost to
            the wanted one until two fifths of these steps are over, and masks are set by importance
            (`nasopt.search.importance`) instead of walking by their gradients: what is recommended wherever the length is known.

    Attributes:
        limits: (metric, limit) pairs.
        steps: as given.

    Raises:
        ConfigError: no limit, an unknown metric or target, a limit that is not a finite number above 0, or too few steps.
    """

    limits: tuple[tuple[AnyMetric, float], ...]
    steps: int | None

    def __init__(
        self,
        limits: Mapping[Any, Any] | None = None,
        *,
        latency: TargetLimits = (),
        energy: TargetLimits = (),
        steps: int | None = None,
        **named: float | tuple[str, float],
    ) -> None:
        if limits is not None and not isinstance(limits, Mapping):
            raise ConfigError(
                f"Budget: limits are a dict {{metric: limit}}, or named: Budget(size=40_000); got {short(limits)}"
            )
        given = [*({} if limits is None else limits).items(), *named.items()]
        pairs = [_of_runtime(metric, limit) for metric, limit in given]
        pairs += [(latency_metric(target, unit="ms"), limit) for target, limit in _pairs(latency, "latency", "ms")]
        pairs += [(energy_metric(target), limit) for target, limit in _pairs(energy, "energy", "uJ")]
        if not pairs:
            raise ConfigError("Budget without a limit: give at least one, e.g. Budget(size=40_000)")
        for metric, limit in pairs:
            check_number(f"Budget: the limit on {metric.name}", limit, above=0, unit=metric.unit)
        names = [metric.name for metric, _ in pairs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"Budget: {', '.join(twice)} is limited twice: give the smaller limit")
        object.__setattr__(self, "limits", tuple((metric, float(limit)) for metric, limit in pairs))
        object.__setattr__(self, "steps", None if steps is None else check_steps(steps))


def _of_runtime(metric: Any, limit: Any) -> tuple[AnyMetric, float]:
    """`("memory", ("tflm", 65_536))` as a metric and its limit; any other pair as it is."""
    if isinstance(metric, str) and ":" not in metric and (hint := nearest(metric, ("latency", "energy"))):
        raise ConfigError(f"Budget: unknown limit {metric!r}.{hint} It is an argument: latency=('cortex_m4', 30) [ms]")
    if isinstance(metric, str) and isinstance(limit, (tuple, list)) and len(limit) == 2 and isinstance(limit[0], str):
        return get_metric(f"{metric}:{limit[0]}"), limit[1]
    return get_metric(metric), limit


def _pairs(given: Any, name: str, unit: str) -> list[tuple[Any, float]]:
    example = f"{name} is a pair (target, limit in {unit}) like ('cortex_m4', 30), or a list of pairs"
    if not isinstance(given, (tuple, list)):
        raise ConfigError(f"Budget: {example}; got {short(given)}")
    pairs = [given] if isinstance(given, tuple) and given and not isinstance(given[0], (tuple, list)) else list(given)
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ConfigError(f"Budget: {example}; got {short(pair)}")
    return [(pair[0], pair[1]) for pair in pairs]


class BudgetPenalty(nn.Module):
    """The penalty for being outside the limits, and what it has learned about how hard to press.

    Attributes:
        limits: (metric, limit) pairs.
        multipliers, strengths: one per limit, buffers of shape `(limits,)`.
        reached: whether the network has been inside every limit once, a buffer of shape `()`.
    """

    multipliers: Tensor
    strengths: Tensor
    reached: Tensor

    def __init__(self, limits: Sequence[tuple[AnyMetric, float]]) -> None:
        super().__init__()
        self.limits = tuple(limits)
        self.register_buffer("multipliers", torch.zeros(len(limits)))
        self.register_buffer("strengths", torch.full((len(limits),), START))
        self.register_buffer("reached", torch.zeros((), dtype=torch.bool))

    def forward(self, costs: Sequence[Tensor], limits: Sequence[tuple[AnyMetric, float]] | None = None) -> Tensor:
        """A scalar: the penalty for `costs`, one scalar per limit; its backward pass takes the dual step.

        `limits` of this step take the place of the wanted ones: to be inside of them reaches nothing.
        """
        violations = torch.stack([cost / limit - 1 for cost, (_, limit) in zip(costs, limits or self.limits)])
        reached = self.reached if limits is None else self.reached.clone()
        return _Penalty.apply(violations.to(self.multipliers.dtype), self.multipliers, self.strengths, reached)

    def check(self, smallest: Callable[[AnyMetric], float], largest: Callable[[AnyMetric], float]) -> None:
        """Before a search: the `smallest` network must be inside every limit, and the `largest` should not be.

        Raises:
            ConfigError: a limit lies below what the smallest network of the space costs.
        """
        with torch.no_grad():
            for metric, limit in self.limits:
                if limit < (least := smallest(metric)):
                    raise ConfigError(
                        f"Budget: the limit on {metric.name} is {limit:,g} {metric.unit}, but the smallest network of this "
                        f"search space costs {least:,g} {metric.unit}: raise the limit, search more of the model (explain() "
                        "tells what is fixed and why), or start from a smaller seed"
                    )
            if all(largest(metric) <= limit for metric, limit in self.limits):
                warnings.warn(
                    "the Budget has no effect: the seed is inside every limit already", NoEffectWarning, stacklevel=4
                )

    def warn_outside(self, cost: Callable[..., float]) -> None:
        """Warn of every limit that the decisions, at `cost(metric, discrete=True)`, break."""
        for metric, limit in self.limits:
            if (now := cost(metric, discrete=True)) > limit:
                warnings.warn(
                    f"the search has not come inside its budget yet: {metric.name} is {now:,g} of {limit:,g} "
                    f"{metric.unit}. Search longer, with a larger learning rate of the architecture parameters, or call "
                    "settle_budget() before the last epochs",
                    BudgetWarning,
                    stacklevel=4,
                )


class _Penalty(torch.autograd.Function):
    """`(violations (n,), multipliers (n,), strengths (n,), reached ()) -> scalar`; backward also takes the dual step."""

    @staticmethod
    def forward(ctx: Any, violations: Tensor, multipliers: Tensor, strengths: Tensor, reached: Tensor) -> Tensor:
        """The penalty, 0 inside the limits once the multipliers have faded."""
        pressure = (multipliers + strengths * violations).clamp(min=0)
        ctx.violations, ctx.state = violations.detach(), (multipliers, strengths, reached)
        ctx.pressure = pressure
        return (pressure.square() / (2 * strengths)).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """The gradient to the violations; multipliers and strengths move on."""
        multipliers, strengths, reached = ctx.state
        with torch.no_grad():
            outside = ctx.violations > 0
            multipliers.copy_((multipliers + strengths * ctx.violations.clamp(max=1)).clamp(0, _MOST))
            strengths.copy_(torch.where(outside, strengths * _GROWTH, strengths).clamp(max=_MOST))
            reached.logical_or_(~outside.any())
        return gradients[0] * ctx.pressure, None, None, None


@dataclass(frozen=True)
class Regularizer:
    """Metrics with weights.

    Attributes:
        weights: (metric, weight) pairs.
        relative: whether every metric is divided by its value for the seed.
        limits: (metric, limit) pairs of a budget, which takes the place of the weights.
        steps: over which these limits fall, if they do.
    """

    weights: tuple[tuple[AnyMetric, float], ...]
    relative: bool = False
    limits: tuple[tuple[AnyMetric, float], ...] = ()
    steps: int | None = None


def make_regularizer(regularizer: Any, relative: bool = False) -> Regularizer:
    """From a metric's name, a metric, a dict of several with weights, or a `Budget`.

    Raises:
        ConfigError: `relative` with a budget, an unknown name, no weight above 0, or one that is not a finite number >= 0.
    """
    if isinstance(regularizer, Budget):
        if relative:
            raise ConfigError("relative=True with a Budget: limits are absolute, so leave relative out")
        weighted = tuple((metric, 1.0) for metric, _ in regularizer.limits)
        return Regularizer(weighted, limits=regularizer.limits, steps=regularizer.steps)
    check_flag("relative", relative)
    if isinstance(regularizer, (list, tuple, set)):
        raise ConfigError(
            f"regularizer is one metric or a dict of several with weights, like {{'macs': 1.0, 'size': 0.1}}; got "
            f"{short(regularizer)}"
        )
    given = regularizer.items() if isinstance(regularizer, Mapping) else [(regularizer, 1.0)]
    if not given:
        raise ConfigError("regularizer is an empty dict: name at least one metric, e.g. {'macs': 1.0}")
    weights = []
    for metric, weight in given:
        weights.append((get_metric(metric), check_number(f"regularizer: the weight of {metric!r}", weight, 0)))
    if not any(weight for _, weight in weights):
        raise ConfigError("regularizer: every weight is 0, so the search would pay for nothing: give one above 0")
    return Regularizer(tuple(weights), relative)


def check_steps(steps: Any) -> int:
    """A usable length of a search by importance.

    Raises:
        ConfigError: it is no int, or too short.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < FEWEST:
        raise ConfigError(
            f"steps must be an int >= {FEWEST} [backward passes of the search], got {steps!r}: with fewer the masks are set "
            f"before their gradients are known. Search for more epochs or take smaller batches, so that epochs * len(loader) "
            f"reaches {FEWEST}"
        )
    return steps
