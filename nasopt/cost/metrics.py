"""Metrics: costs that are sums over layers, pure functions of a `LayerShape`, and peaks over the steps of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nasopt.arguments import check_flag, check_number, short
from nasopt.cost.runtime import LIVE, Runtime, get_runtime
from nasopt.cost.targets.target import Target
from nasopt.errors import ConfigError, nearest
from nasopt.graph.layer_shape import LayerShape, facts_of


@dataclass(frozen=True)
class Tabulation:
    """Costs that are `scale` times the cycles on `target`: `LatencyTable` evaluates them for a whole network at once."""

    target: Target
    scale: float


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
    """

    name: str
    unit: str
    per_call: bool
    cost: Callable[[LayerShape], Any]
    table: Tabulation | None = None
    constant: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not isinstance(self.unit, str) or not self.name:
            raise ConfigError(f"Metric: name and unit are words, got {self.name!r} and {self.unit!r}")
        check_flag(f"Metric {self.name!r}: per_call", self.per_call)
        if not callable(self.cost):
            raise ConfigError(f"Metric {self.name!r}: cost is a function LayerShape -> number, got {short(self.cost)}")
        check_number(f"Metric {self.name!r}: constant", self.constant, unit=self.unit)


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


def layer_size(shape: LayerShape) -> Any:
    """Weights stored for a layer [weights], norms folded.

    `out * in / groups * taps`, plus one bias per output channel where `shape.bias` is set. A product of activations
    stores nothing, nor does a pooling.
    """
    if not facts_of(shape.kind).stores:
        return 0 * shape.out_channels
    return (shape.in_channels * shape.taps / shape.groups + shape.bias) * shape.out_channels


def layer_macs(shape: LayerShape) -> Any:
    """Multiply-accumulates of one call of a layer for one sample [MAC].

    Convolution: `positions * out * in / groups * taps`, padding counted like data; linear: `in * out` per row.
    Bias, norms, activations, lookups and elementwise weights are free. An adder layer multiplies nothing: see
    `layer_additions`, and `layer_ops` for a metric in which it is not free.
    """
    if not facts_of(shape.kind).multiplies:
        return 0 * shape.out_channels
    return _products(shape)


def _products(shape: LayerShape) -> Any:
    """Pairs of a weight and an activation that one call brings together."""
    return shape.in_channels * shape.out_channels * (shape.positions * shape.taps) / shape.groups


def layer_size_bits(shape: LayerShape) -> Any:
    """Storage of a layer's weights [bit]: `layer_size` times `weight_bits` (1 binary, 8 int8, 32 as trained).

    Biases count at `bias_bits`, 32 in a quantised layer; without those as weights.
    """
    if not facts_of(shape.kind).stores:
        return 0 * shape.out_channels
    of_bias = shape.weight_bits if shape.bias_bits is None else shape.bias_bits
    weights = shape.in_channels * shape.taps / shape.groups * shape.weight_bits
    return (weights + shape.bias * of_bias) * shape.out_channels


def layer_bit_ops(shape: LayerShape) -> Any:
    """Work of one call [bit op]: MACs times the widths of weights and activations."""
    return layer_macs(shape) * shape.weight_bits * shape.activation_bits


def _weights_alone(shape: LayerShape) -> Any:
    """Weights of a layer, biases left aside."""
    if not facts_of(shape.kind).stores:
        return 0 * shape.out_channels
    return shape.in_channels * shape.taps / shape.groups * shape.out_channels


def _bits_of_weights(shape: LayerShape) -> Any:
    return _weights_alone(shape) * shape.weight_bits


# Of a quantised layer, per output channel: a bias and a multiplier of 32 bits, and a shift.
_CHANNEL_BYTES = 4 + 4 + 1


def layer_flash(shape: LayerShape) -> Any:
    """Flash for a layer [B]: weights packed at their width; 9 B per output channel of a quantised layer for bias, multiplier
    and shift, elsewhere the bias at the width of weights."""
    if not facts_of(shape.kind).stores:
        return 0 * shape.out_channels
    weights = shape.in_channels * shape.taps / shape.groups * shape.weight_bits / 8
    of_bias = shape.weight_bits if shape.bias_bits is None else shape.bias_bits
    # Layers that are not quantised give their biases the width of weights.
    quantised = _is_other(of_bias, shape.weight_bits)
    return (weights + quantised * _CHANNEL_BYTES + (1 - quantised) * shape.bias * of_bias / 8) * shape.out_channels


BINARY_SPEEDUP = 64
"""Products of one bit by one bit that one 64-bit XNOR and population count do at once."""


def layer_ops(shape: LayerShape) -> Any:
    """Bit-aware work of one call [MAC]: MACs, of which those with 1-bit weights and 1-bit activations count 1/64.

    A layer with only its weights binary still multiplies real activations, and counts in full. A pooling that a search
    added works on real values: one comparison or addition per tap and output but the first, 8 for a 3x3 window. A tap of
    an adder layer, a difference and a sum, counts like the product and sum of one MAC.
    """
    if shape.kind == "pool":
        return shape.out_channels * shape.positions * (shape.taps - 1)
    if shape.kind == "adder":
        return _products(shape)
    macs = layer_macs(shape)
    binary = _is_one(shape.weight_bits) * _is_one(shape.activation_bits)
    return macs * (1 - binary * (1 - 1 / BINARY_SPEEDUP))


def layer_multiplications(shape: LayerShape) -> Any:
    """Multiplications of one call [operations]: one per MAC, none in an adder layer."""
    return layer_macs(shape)


def layer_additions(shape: LayerShape) -> Any:
    """Additions and subtractions of one call [operations]: one per MAC, two per tap of an adder layer."""
    return 2 * _products(shape) if shape.kind == "adder" else layer_macs(shape)


def _is_one(bits: Any) -> Any:
    """1 where a width is one bit, else 0; numbers or tensors."""
    return (bits == 1) * 1


def _is_other(bits: Any, than: Any) -> Any:
    """1 where two widths differ, else 0; numbers or tensors."""
    return (bits != than) * 1


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
    Metric("bits of weights", "bit", per_call=False, cost=_bits_of_weights),
    Metric("weights", "weights", per_call=False, cost=_weights_alone),
)
"""Bits of all weights by their number, biases left aside; 32 in a network that is not quantised."""
MEMORY = PeakMetric()


def runtime_memory(runtime: str | Runtime) -> PeakMetric:
    """The metric "memory that a runtime needs" [B], activations in int8; `"memory:NAME"` for regularizers.

    Raises:
        ConfigError: no runtime has that name.
    """
    runtime = get_runtime(runtime)
    return PeakMetric(f"memory:{runtime.name}", runtime=runtime)


def runtime_flash(runtime: str | Runtime) -> Metric:
    """The metric "flash that a network needs with a runtime" [B]: weights, 4 B per bias, code; `"flash:NAME"`.

    Weights count at their width, at most 8 bit: a layer that is wider while it is trained is deployed in int8.

    Raises:
        ConfigError: no runtime has that name.
    """
    runtime = get_runtime(runtime)
    return Metric(f"flash:{runtime.name}", "B", False, partial(_layer_flash, runtime), constant=runtime.code_bytes)


def _layer_flash(runtime: Runtime, shape: LayerShape) -> Any:
    if not facts_of(shape.kind).stores:
        return 0 * shape.out_channels
    bits = shape.weight_bits
    bits = bits.clamp(max=8) if isinstance(bits, Tensor) else min(bits, 8)
    weights = shape.in_channels * shape.out_channels * shape.taps / shape.groups * (bits / 8)
    described = runtime.layer_code_bytes + runtime.layer_file_bytes + runtime.channel_file_bytes * shape.out_channels
    return weights + 4 * shape.bias * shape.out_channels + described


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
