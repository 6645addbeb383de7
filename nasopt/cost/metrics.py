"""Metrics: costs that are sums over layers, pure functions of a `LayerShape`, and peaks over the steps of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nasopt.arguments import check_flag, check_number, short
from nasopt.checked import checked, checked_fields
from nasopt.cost.formulas import (
    layer_additions,
    layer_bit_ops,
    layer_bits_of_weights,
    layer_flash,
    layer_flash_in,
    layer_macs,
    layer_multiplications,
    layer_ops,
    layer_size,
    layer_size_bits,
    layer_weights,
)
from nasopt.cost.runtime import LIVE, Runtime, get_runtime
from nasopt.cost.targets.target import Target
from nasopt.cost.widths import Runs
from nasopt.errors import ConfigError, nearest
from nasopt.graph.layer_shape import LayerShape


@dataclass(frozen=True)
class Tabulation:
    """Costs that are `scale` times the cycles on `target`: `LatencyTable` evaluates them for a whole network at once."""

    target: Target
    scale: float


@checked_fields
@dataclass(frozen=True)
class Metric:
    """A cost that is a sum over layers.

    Attributes:
        name: how a regularizer, a table or an error calls it.
        unit: of the result.
        per_call: True for work and time (counted at every call of a layer), False for storage (counted once,
            however often the layer is called).
        cost: `LayerShape -> number`; fields of the shape may be ints or float64 tensors `(n,)`.
        constant: what every network costs besides its layers.
        table: a faster form of the same costs, for training steps, or None.
        runs: widths that the platform runs whose cost this is; None: the cost is of no platform.
    """

    name: str
    unit: str
    per_call: bool
    cost: Callable[[LayerShape], Any]
    table: Tabulation | None = None
    constant: float = 0.0
    runs: Runs | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not isinstance(self.unit, str) or not self.name:
            raise ConfigError(f"Metric: name and unit are words, got {self.name!r} and {self.unit!r}")
        check_flag(f"Metric {self.name!r}: per_call", self.per_call)
        if not callable(self.cost):
            raise ConfigError(f"Metric {self.name!r}: cost is a function LayerShape -> number, got {short(self.cost)}")
        check_number(f"Metric {self.name!r}: constant", self.constant, unit=self.unit)


@checked_fields
@dataclass(frozen=True)
class PeakMetric:
    """A cost that is the largest over the steps of a network, not a sum over its layers: memory of live activations.

    Attributes:
        name: how a regularizer, a table or an error calls it.
        unit: of the result.
        bits: of one element.
        sharpness: None for the true maximum, whose gradient goes to the step at the peak; a positive number for a
            smooth one, the `log(sum(exp(b m_i / m))) m / b` of the steps' memories `m_i` with maximum `m`, which is
            larger by at most `log(steps) / b` of the peak and also moves steps that are nearly as high.
        runtime: whose memory this is: live tensors in a perfect placement, or what an inference engine needs.
    """

    name: str = "memory"
    unit: str = "B"
    bits: int = 8
    sharpness: float | None = None
    runtime: Runtime = LIVE

    def peak(self, elements: Tensor) -> Tensor:
        """Cost of a network from the live elements of 8 bits at its steps, shape `(steps,)`: a scalar, differentiable."""
        live = elements * (self.bits / 8)
        top = live.max()
        if self.sharpness is None or not float(top.detach()) > 0:
            return top
        scale = top.detach() / self.sharpness
        return scale * torch.logsumexp(live / scale, dim=0)


@checked_fields
@dataclass(frozen=True)
class RatioMetric:
    """A cost that is the ratio of two sums over layers.

    Attributes:
        name: how a regularizer, a table or an error calls it.
        unit: of the result.
        above, below: the sums.
    """

    name: str
    unit: str
    above: Metric
    below: Metric


AnyMetric = Metric | PeakMetric | RatioMetric


@checked
def sums_of(metric: AnyMetric) -> tuple[Metric, ...]:
    """The sums over layers that a metric is made of."""
    if isinstance(metric, RatioMetric):
        return metric.above, metric.below
    return (metric,) if isinstance(metric, Metric) else ()


SIZE = Metric("size", "weights", per_call=False, cost=layer_size)
MACS = Metric("macs", "MAC", per_call=True, cost=layer_macs)

BIT_OPS = Metric("bit_ops", "bit op", per_call=True, cost=layer_bit_ops)
FLASH = Metric("flash", "B", per_call=False, cost=layer_flash)
SIZE_BITS = Metric("size_bits", "bit", per_call=False, cost=layer_size_bits)
OPS = Metric("ops", "MAC", per_call=True, cost=layer_ops)
MULTIPLICATIONS = Metric("multiplications", "operations", per_call=True, cost=layer_multiplications)
ADDITIONS = Metric("additions", "operations", per_call=True, cost=layer_additions)
AVERAGE_BITS = RatioMetric(
    "average_bits",
    "bit per weight",
    Metric("bits of weights", "bit", per_call=False, cost=layer_bits_of_weights),
    Metric("weights", "weights", per_call=False, cost=layer_weights),
)
"""Bits of all weights by their number, biases and norms left aside; 32 in a network that is not quantised."""
MEMORY = PeakMetric()


def runtime_memory(runtime: str | Runtime) -> PeakMetric:
    """The metric "memory that a runtime needs" [B], activations in int8; `"memory:NAME"` for regularizers.

    Raises:
        ConfigError: no runtime has that name.
    """
    runtime = get_runtime(runtime)
    return PeakMetric(f"memory:{runtime.name}", runtime=runtime)


def runtime_flash(runtime: str | Runtime) -> Metric:
    """The metric "flash that a network needs with a runtime" [B]: weights, biases, code; `"flash:NAME"`.

    Weights count at their width, at most 8 bit: a layer that is wider while it is trained is deployed in int8.

    Raises:
        ConfigError: no runtime has that name.
    """
    runtime = get_runtime(runtime)
    runs = Runs(runtime.name, runtime.weight_bits)
    cost = partial(layer_flash_in, runtime)
    return Metric(f"flash:{runtime.name}", "B", False, cost, constant=runtime.code_bytes, runs=runs)


_METRICS: dict[str, AnyMetric] = {}
_FAMILIES: dict[str, tuple[Callable[[str], AnyMetric], str]] = {}
_CONVERTERS: dict[type, Callable[[Any], AnyMetric]] = {}


def register_metric(metric: AnyMetric) -> AnyMetric:
    """Make `metric` available to regularizers and `get_cost` under its name.

    Raises:
        ConfigError: another metric has the same name.
    """
    if not isinstance(metric, (Metric, PeakMetric, RatioMetric)):
        raise ConfigError(f"register_metric takes a nasopt.cost.Metric, got {short(metric)}")
    if _METRICS.setdefault(metric.name, metric) is not metric:
        raise ConfigError(f"a metric named {metric.name!r} exists already: choose another name")
    return metric


@checked
def register_family(prefix: str, make: Callable[[str], AnyMetric], argument: str) -> None:
    """Make metrics with an argument available by name: `"latency:cortex_m4"` is `make("cortex_m4")` of `"latency"`.

    Args:
        prefix: the name up to the colon.
        make: the argument -> the metric.
        argument: what it is, in capitals, for `metric_names` and errors.

    Raises:
        ConfigError: another family has the same prefix.
    """
    if _FAMILIES.setdefault(prefix, (make, argument))[0] is not make:
        raise ConfigError(f"a family of metrics named {prefix!r} exists already: choose another name")


@checked
def register_converter(kind: type, make: Callable[[Any], AnyMetric]) -> None:
    """Let objects of a class stand for a metric: `get_metric(x)` is `make(x)` for every `x` of that class.

    Raises:
        ConfigError: the class has another converter.
    """
    if _CONVERTERS.setdefault(kind, make) is not make:
        raise ConfigError(f"{kind.__name__} objects stand for another metric already: give each class one converter")


def metric_names() -> list[str]:
    """Names that a regularizer may use; `TARGET` stands for any of `target_names()`, `RUNTIME` of `runtime_names()`."""
    return sorted([*_METRICS, *(f"{prefix}:{argument}" for prefix, (_, argument) in _FAMILIES.items())])


def get_metric(metric: str | AnyMetric | Target) -> AnyMetric:
    """The metric of that name; a metric is returned as it is, a `Target` means latency in cycles on it.

    Raises:
        ConfigError: no metric has that name; the message lists the known ones.
    """
    if isinstance(metric, (Metric, PeakMetric, RatioMetric)):
        return metric
    for kind, make in _CONVERTERS.items():
        if isinstance(metric, kind):
            return make(metric)
    if isinstance(metric, str):
        prefix, _, argument = metric.partition(":")
        if metric in _METRICS:
            return _METRICS[metric]
        if prefix in _FAMILIES and argument:
            return _FAMILIES[prefix][0](argument)
    known = metric_names()
    hint = nearest(metric, known) if isinstance(metric, str) else ""
    raise ConfigError(
        f"unknown metric {short(metric)}: known are {', '.join(known)}, or pass a nasopt.cost.Metric, PeakMetric or Target.{hint}"
    )


register_metric(SIZE)
register_metric(SIZE_BITS)
register_metric(BIT_OPS)
register_metric(FLASH)
register_metric(AVERAGE_BITS)
register_metric(MACS)
register_metric(OPS)
register_metric(MULTIPLICATIONS)
register_metric(ADDITIONS)
register_metric(MEMORY)
register_family("memory", runtime_memory, "RUNTIME")
register_family("flash", runtime_flash, "RUNTIME")
