"""What does every layer of a model cost, and on which chip? One record per priced call, totals, and what has no price."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from nasopt.cost.latency import layer_cycles
from nasopt.cost.memory import PeakReport, live_sets, memory_graph, peak_report
from nasopt.cost.metrics import ADDITIONS, MACS, SIZE
from nasopt.cost.network import LayerCall, NetworkCalls, network_calls
from nasopt.cost.report_text import report_text
from nasopt.cost.targets import Target, get_target
from nasopt.graph.layer_shape import LayerShape


@dataclass(frozen=True)
class LayerReport:
    """One call of one layer.

    Attributes:
        layer: its path, or the node's name for a function.
        shape: of the call.
        params: weights stored for it [weights], 0 where an earlier call has stored them.
        macs: of the call [MAC].
        live: activations in memory while it runs [B], int8; None where it is no step of the network (weights used directly).
        cycles: per target, None where the target has no law for it.
    """

    layer: str
    shape: LayerShape
    params: int
    macs: int
    live: int | None
    cycles: dict[str, int | None]


@dataclass(frozen=True)
class CostReport:
    """Costs of a model, batch 1; `print` shows a table, `csv()` and `json()` give the same numbers.

    Attributes:
        layers: in the order in which they run.
        targets: the targets of `cycles`.
        memory: peak of live activations as written and in the best order, int8 [B].
        unpriced: calls that nobody can price: their weights, MACs and cycles are in no total.
        free: calls that cost nothing by convention (activations, pooling, sums of activations, views ...).
    """

    layers: tuple[LayerReport, ...]
    targets: tuple[Target, ...]
    memory: PeakReport
    unpriced: tuple[str, ...]
    free: tuple[str, ...]

    def totals(self) -> dict[str, Any]:
        """`{"params", "macs", "additions", "memory", "memory_best_order", "cycles", "ms", "energy_uj", "without_law"}`.

        The latter four by target; energy only where the power is known; `without_law` lists the layers that are missing
        in a target's total.
        """
        cycles = {t.name: sum(layer.cycles[t.name] or 0 for layer in self.layers) for t in self.targets}
        ms = {t.name: t.milliseconds(cycles[t.name]) for t in self.targets}
        return {
            "params": sum(layer.params for layer in self.layers),
            "macs": sum(layer.macs for layer in self.layers),
            "additions": sum(int(ADDITIONS.cost(layer.shape)) for layer in self.layers),
            "memory": self.memory.given.size,
            "memory_best_order": self.memory.best.size,
            "memory_peak_at": str(self.memory.given.step),
            "cycles": cycles,
            "ms": ms,
            "energy_uj": {t.name: ms[t.name] * t.active_power_mw for t in self.targets if t.active_power_mw > 0},
            "without_law": {
                t.name: [layer.layer for layer in self.layers if layer.cycles[t.name] is None] for t in self.targets
            },
        }

    def rows(self) -> list[dict[str, Any]]:
        """One flat record of plain values per layer; shares in per cent of the totals."""
        totals = self.totals()
        rows = []
        for layer in self.layers:
            shape = layer.shape
            row: dict[str, Any] = {
                "layer": layer.layer,
                "kind": shape.kind,
                "in": shape.in_channels,
                "out": shape.out_channels,
                "kernel": "x".join(map(str, shape.kernel)),
                "stride": "x".join(map(str, shape.stride)),
                "groups": shape.groups,
                "output": "x".join(map(str, shape.output_size)),
                "params": layer.params,
                "macs": layer.macs,
                "additions": int(ADDITIONS.cost(shape)),
                "macs_percent": _percent(layer.macs, totals["macs"]),
                "live_bytes": layer.live,
            }
            for target in self.targets:
                cycles = layer.cycles[target.name]
                row[f"{target.name}_cycles"] = cycles
                row[f"{target.name}_ms"] = None if cycles is None else target.milliseconds(cycles)
                row[f"{target.name}_percent"] = _percent(cycles, totals["cycles"][target.name])
            rows.append(row)
        return rows

    def csv(self) -> str:
        """The rows as comma-separated values with a header; without totals."""
        rows = self.rows()
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]) if rows else ["layer"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue()

    def json(self) -> str:
        """`{"layers", "totals", "unpriced", "free"}`."""
        content = {"layers": self.rows(), "totals": self.totals(), "unpriced": self.unpriced, "free": self.free}
        return json.dumps(content, indent=2)

    def __str__(self) -> str:
        return report_text(self)


def cost_report(
    model: nn.Module,
    input_shape: Sequence[Any] | None = None,
    *,
    input_example: Any = None,
    targets: Sequence[str | Target] = (),
    leaf_modules: Sequence[Any] = (),
) -> CostReport:
    """Costs of any traceable model, layer by layer; of a search model those of what `arch_export` would give now.

    ```python
    print(cost_report(resnet8(), (3, 32, 32), targets=["cortex_m4", "gap8"]))
    ```

    Args:
        model: it stays as it is.
        input_shape: of one sample, without batch; several inputs: a sequence of shapes.
        input_example: instead: a batch as a tensor, a tuple of tensors, or a dict of keyword arguments.
        targets: embedded targets, by name or object.
        leaf_modules: names, globs or classes of modules that are not traced into: they are listed as unpriced.

    Raises:
        ConfigError: an unknown target, or the model fails on the input.
        TraceError: the model's `forward` depends on data.
    """
    platforms = tuple(get_target(target) for target in targets)
    export = getattr(model, "arch_export", None)
    network = export(verify=False) if callable(export) else model
    calls = network_calls(network, input_shape, input_example=input_example, leaf_modules=leaf_modules)
    graph = memory_graph(calls.memory)
    live = {
        str(step): sum(graph.sizes[buffer] for buffer in buffers)
        for step, buffers in zip(graph.steps, live_sets(graph))
    }
    layers = tuple(_layers(calls, live, platforms))
    return CostReport(layers, platforms, peak_report(graph), calls.unpriced, calls.free)


def _layers(calls: NetworkCalls, live: dict[str, Any], targets: Sequence[Target]) -> list[LayerReport]:
    stored: set[str] = set()
    layers = []
    for call in calls.calls:
        params = 0 if call.stored in stored else int(SIZE.cost(call.shape))
        stored.add(call.stored)
        cycles = {target.name: _cycles(target, call) for target in targets}
        macs = int(MACS.cost(call.shape))
        layers.append(LayerReport(call.layer, call.shape, params, macs, live.get(call.node), cycles))
    return layers


def _cycles(target: Target, call: LayerCall) -> int | None:
    return None if target.status(call.shape.kind) == "unpriced" else int(layer_cycles(target, call.shape))


def _percent(part: int | None, whole: int) -> float | None:
    return None if part is None or not whole else round(100 * part / whole, 2)
