"""What does a plain network cost? Its layer calls as `LayerShape`s, and their sum under a metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from nasopt.cost.metrics import Metric, get_metric
from nasopt.graph.analysis import analyse, trace_model
from nasopt.graph.example import make_example
from nasopt.graph.layer_shape import LayerShape


@dataclass(frozen=True)
class LayerCall:
    """One priced call.

    Attributes:
        layer: path of the layer, or the node's name for a function.
        stored: names the stored weights; calls of equal name share them.
        shape: of the call, exact.
    """

    layer: str
    stored: str
    shape: LayerShape


@dataclass(frozen=True)
class NetworkCalls:
    """All calls of a network: priced ones, and the names of those that nobody can price."""

    calls: tuple[LayerCall, ...]
    unpriced: tuple[str, ...]

    def total(self, metric: str | Metric) -> int | float:
        """Sum over the calls; storage is counted once for calls that share weights."""
        metric = get_metric(metric)
        seen: set[str] = set()
        total: Any = 0
        for call in self.calls:
            if metric.per_call or call.stored not in seen:
                total += metric.cost(call.shape)
            seen.add(call.stored)
        return int(total) if float(total).is_integer() else float(total)


def network_calls(
    model: nn.Module,
    input_shape: Sequence[Any] | None = None,
    *,
    input_example: Any = None,
    leaf_modules: Sequence[Any] = (),
) -> NetworkCalls:
    """Trace any model and list what its calls cost. Arguments and errors as in `nasopt.PIT`."""
    example = make_example(model, input_shape, input_example)
    propagation = analyse(trace_model(model, example, tuple(leaf_modules)), example).propagation
    calls = (LayerCall(term.layer, term.key, term.layer_shape()) for term in propagation.costs)
    return NetworkCalls(tuple(calls), tuple(propagation.unpriced))


def network_cost(
    model: nn.Module, metric: str | Metric, input_shape: Sequence[Any] | None = None, *, input_example: Any = None
) -> int | float:
    """Cost of a plain network under a metric: exact, batch 1.

    ```python
    network_cost(resnet8(), "macs", (3, 32, 32))        # 12501632
    ```

    Raises:
        ConfigError: an unknown metric, or the model fails on the input.
        TraceError: the model's `forward` depends on data.
    """
    return network_calls(model, input_shape, input_example=input_example).total(metric)
