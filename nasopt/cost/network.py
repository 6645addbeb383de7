"""Costs of a plain network: its layer calls as `LayerShape`s, and their sum under a metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import nn

from nasopt.checked import checked, checked_but
from nasopt.cost.memory import live_bytes
from nasopt.cost.metrics import AnyMetric, Metric, PeakMetric, RatioMetric, get_metric
from nasopt.cost.runtime import LIVE, Runtime
from nasopt.errors import ConfigError, NasoptError, UnpricedError
from nasopt.graph.activations import activation_memory
from nasopt.graph.buffers import ActivationMemory
from nasopt.graph.example import make_example
from nasopt.graph.groups import Analysis, analyse, trace_model
from nasopt.graph.layer_shape import LayerShape


@dataclass(frozen=True)
class LayerCall:
    """One priced call.

    Attributes:
        layer: path of the layer, or the node's name for a function.
        stored: names the stored weights; calls of equal name share them.
        shape: of the call, exact.
        node: its node in the traced graph.
    """

    layer: str
    stored: str
    shape: LayerShape
    node: str


@dataclass(frozen=True)
class NetworkCalls:
    """All calls of a network.

    Attributes:
        calls: priced ones.
        unpriced: names of those that nobody can price.
        free: names of those that cost nothing by convention, or are folded into the layer before (norms).
        analysis: of the network that they belong to; None in copies, which hold plain facts.
    """

    calls: tuple[LayerCall, ...]
    unpriced: tuple[str, ...]
    free: tuple[str, ...]
    analysis: Analysis | None = field(repr=False, compare=False)

    @cached_property
    def memory(self) -> ActivationMemory:
        """Where results live."""
        assert self.analysis is not None, "copies hold theirs"
        return activation_memory(self.analysis)

    @cached_property
    def materialised(self) -> ActivationMemory:
        """The same as converters to TFLite have it, see `nasopt.graph.activations`."""
        assert self.analysis is not None, "copies hold theirs"
        return activation_memory(self.analysis, True)

    @cached_property
    def accumulated(self) -> ActivationMemory:
        """The same as programs of integers have it."""
        assert self.analysis is not None, "copies hold theirs"
        return activation_memory(self.analysis, accumulators=True)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and files: plain facts, without the traced network."""
        kept = {name: getattr(self, name) for name in ("memory", "materialised", "accumulated")}
        return {**vars(self), "analysis": None, **kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def memory_of(self, runtime: Runtime) -> ActivationMemory:
        """Where results live, as a runtime wants it described."""
        if runtime.accumulators:
            return self.accumulated
        return self.materialised if runtime.materialised else self.memory

    def total(self, metric: str | AnyMetric) -> int | float:
        """Sum over the calls, storage counted once for calls that share weights; or the peak over the steps."""
        metric = get_metric(metric)
        if isinstance(metric, RatioMetric):
            return self.total(metric.above) / self.total(metric.below)
        if isinstance(metric, PeakMetric):
            if metric.runtime is not LIVE:
                return metric.runtime.memory_bytes(self.memory_of(metric.runtime))
            return _plain(metric.peak(torch.tensor(live_bytes(self.memory), dtype=torch.float64)))
        for call in self.calls if metric.runs is not None else ():
            if call.shape.bias_bits is not None:
                metric.runs.check(call.layer, [call.shape.weight_bits], [call.shape.activation_bits])  # type: ignore[union-attr]
        seen: set[str] = set()
        total: Any = metric.constant
        for call in self.calls:
            if metric.per_call or call.stored not in seen:
                total += metric.cost(call.shape)
            seen.add(call.stored)
        return _plain(total)


def _plain(cost: Any) -> int | float:
    return int(cost) if float(cost).is_integer() else float(cost)


@checked
def network_calls(
    model: nn.Module,
    input_shape: Sequence[Any] | None = None,
    *,
    input_example: Any = None,
    leaf_modules: Sequence[str | type[nn.Module]] = (),
) -> NetworkCalls:
    """Trace any model and list what its calls cost. Arguments and errors as in `nasopt.PIT`."""
    example = make_example(model, input_shape, input_example)
    analysis = analyse(trace_model(model, example, tuple(leaf_modules)), example)
    facts = analysis.facts
    terms = analysis.deployed_costs()
    parts = [part for term in terms for part in term.parts()]
    calls = (LayerCall(term.layer, term.key, term.layer_shape(), term.node) for term in parts)
    unpriced = tuple(dict.fromkeys(facts.unpriced))
    free = (name for name in facts.called() if name not in unpriced and name not in {t.layer for t in terms})
    return NetworkCalls(tuple(calls), unpriced, tuple(free), analysis)


def calls_on_board(model: nn.Module, input_shape: Sequence[Any], label: str) -> NetworkCalls:
    """The calls of a network that was timed.

    Raises:
        ConfigError: with its label: it is a search model, or does not run.
    """
    if callable(getattr(model, "arch_export", None)):
        raise ConfigError(
            f"{label} is of a {type(model).__name__}: give the network that runs on boards, arch_export()"
        )
    try:
        return network_calls(model, input_shape)
    except NasoptError as error:
        raise ConfigError(f"{label}: {error}") from error


@checked_but("metric")
def network_cost(
    model: nn.Module,
    metric: str | AnyMetric,
    input_shape: Sequence[Any] | None = None,
    *,
    input_example: Any = None,
    unpriced: Literal["raise", "ignore"] = "raise",
) -> int | float:
    """Cost of a plain network under a metric: exact, batch 1. `unpriced` as in `nasopt.PIT`.

    ```python
    network_cost(resnet8(), "macs", (3, 32, 32))        # 12501632
    ```

    Raises:
        ConfigError: an unknown metric, or the model fails on the input.
        TraceError: the model's `forward` depends on data.
        UnpricedError: the metric counts work, and nobody knows that of some call.
    """
    metric = get_metric(metric)
    calls = network_calls(model, input_shape, input_example=input_example)
    if calls.unpriced and unpriced == "raise" and isinstance(metric, Metric) and metric.per_call:
        raise UnpricedError(
            f"{metric.name}: nobody knows what {', '.join(calls.unpriced)} cost{'s' * (len(calls.unpriced) == 1)}, and unknown "
            'is not zero. Give a price (call.cost in a rule, see nasopt.layer_rule), or leave them out with unpriced="ignore"'
        )
    return calls.total(metric)
