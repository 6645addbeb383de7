"""`cost_report`: what every layer of a model costs, per target, with totals and what has no price; as text, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from nasopt.arguments import short
from nasopt.checked import checked
from nasopt.cost.calibration import units_of_rows
from nasopt.cost.deployment import Deployment, deployment_of
from nasopt.cost.fermat import both_ops
from nasopt.cost.latency import layer_cycles, rows_of
from nasopt.cost.memory import PeakReport, live_bytes, peak_report
from nasopt.cost.metrics import ADDITIONS, MACS, SIZE
from nasopt.cost.network import LayerCall, NetworkCalls, network_calls
from nasopt.cost.runtime import Runtime, get_runtime
from nasopt.cost.targets import Target, get_target
from nasopt.errors import ConfigError
from nasopt.graph.layer_shape import LayerShape
from nasopt.tables import align, html_table, listed


@dataclass(frozen=True)
class LayerReport:
    """One call of one layer.

    Attributes:
        layer: its path, or the node's name for a function.
        shape: of the call.
        params: weights stored for it [weights], 0 where an earlier call has stored them.
        macs: of the call [MAC].
        live: activations in memory while it runs [B], int8; None where it is no step of the network (weights used directly).
        cycles: per target, None where the target has no law for it, or does not run its widths.
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
        deployment: what the network needs in a runtime, if one was named.
        transform: whether convolutions are also counted by Fermat number transforms, `nasopt.nn.fermat`.
    """

    layers: tuple[LayerReport, ...]
    targets: tuple[Target, ...]
    memory: PeakReport
    unpriced: tuple[str, ...]
    free: tuple[str, ...]
    deployment: Deployment | None = None
    transform: bool = False

    def totals(self) -> dict[str, Any]:
        """Params, macs, additions, memory, memory_best_order, cycles, ms, energy_uj, without_law, ms_interval, by these names.

        The latter four by target; energy only where the power is known; `without_law` lists the layers that are missing
        in a target's total. With a runtime also `"runtime"`: its name, `"ram"` and `"flash"` [B], and `"fits"` by target,
        None where a target's memory is not known.
        """
        cycles = {t.name: sum(layer.cycles[t.name] or 0 for layer in self.layers) for t in self.targets}
        ms = {t.name: t.milliseconds(cycles[t.name]) for t in self.targets}
        deployed = {} if self.deployment is None else {"runtime": self.deployment.plain(self.targets)}
        return deployed | {
            "params": sum(layer.params for layer in self.layers),
            "macs": sum(layer.macs for layer in self.layers),
            "additions": sum(int(ADDITIONS.cost(layer.shape)) for layer in self.layers),
            "memory": self.memory.given.size,
            "memory_best_order": self.memory.best.size,
            "memory_peak_at": self.memory.given.step,
            "cycles": cycles,
            "ms": ms,
            "ms_interval": self.intervals(),
            "energy_uj": {t.name: ms[t.name] * t.active_power_mw for t in self.targets if t.active_power_mw > 0},
            "without_law": {
                t.name: [layer.layer for layer in self.layers if layer.cycles[t.name] is None] for t in self.targets
            },
        }

    def intervals(self) -> dict[str, tuple[float, float]]:
        """90 % intervals of the whole time [ms], for targets that were fitted to timings."""
        found = {}
        for target in self.targets:
            if target.uncertainty is not None:
                units = units_of_rows(rows_of([layer.shape for layer in self.layers])).sum(0)
                factor = target.uncertainty.factor(units)
                ms = target.milliseconds(sum(layer.cycles[target.name] or 0 for layer in self.layers))
                found[target.name] = (ms / factor, ms * factor)
        return found

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
            if self.transform:
                direct, by_transform = both_ops(shape) or (None, None)
                row |= {"direct_ops": direct, "transform_ops": by_transform}
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
        return "\n".join([*align(_table(self), left=3), "", *_notes(self)])

    def _repr_html_(self) -> str:
        return html_table(_table(self), left=3, notes=_notes(self))


@checked
def cost_report(
    model: nn.Module,
    input_shape: Sequence[Any] | None = None,
    *,
    input_example: Any = None,
    targets: Sequence[str | Target] = (),
    runtime: str | Runtime | None = None,
    leaf_modules: Sequence[str | type[nn.Module]] = (),
    transform: bool = False,
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
        runtime: an inference engine, by name or object: the report says what RAM and flash it needs for this network,
            and whether that fits the targets.
        leaf_modules: names, globs or classes of modules that are not traced into: they are listed as unpriced.
        transform: also count the operations of every convolution by Fermat number transforms, beside the direct ones.

    Raises:
        ConfigError: an unknown target or runtime, or the model fails on the input.
        TraceError: the model's `forward` depends on data.
    """
    if isinstance(targets, (str, Mapping)) or not isinstance(targets, Iterable):
        raise ConfigError(
            f"cost_report: targets are a list of names or Targets, like ['cortex_m4'], got {short(targets)}"
        )
    named: dict[str, Target] = {}
    for target in map(get_target, targets):
        if named.setdefault(target.name, target) != target:
            raise ConfigError(
                f"cost_report: two targets are named {target.name!r}, and figures stand under names: "
                f"dataclasses.replace(target, name=...)"
            )
    platforms = tuple(named.values())
    engine = None if runtime is None else get_runtime(runtime)
    export = getattr(model, "arch_export", None)
    network = export(verify=False) if callable(export) else model
    calls = network_calls(network, input_shape, input_example=input_example, leaf_modules=leaf_modules)
    live = {step.node: size for step, size in zip(calls.memory.steps, live_bytes(calls.memory))}
    layers = tuple(_layers(calls, live, platforms))
    deployment = None if engine is None else deployment_of(calls, engine)
    return CostReport(layers, platforms, peak_report(calls.memory), calls.unpriced, calls.free, deployment, transform)


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
    if target.status(call.shape.kind) == "unpriced" or target.lacks(call.shape):
        return None
    return int(layer_cycles(target, call.shape))


def _percent(part: int | None, whole: int) -> float | None:
    return None if part is None or not whole else round(100 * part / whole, 2)


# --- as text


def _table(report: CostReport) -> list[list[str]]:
    """Header, layers, totals."""
    totals = report.totals()
    # A convolution adds what it multiplies; only where some layers add without multiplying are these numbers two.
    adds = any(layer.shape.kind == "adder" for layer in report.layers)
    header = ["layer", "kind", "shape", "params", "MACs", "%", *(["additions"] if adds else []), "live B"]
    header += ["direct ops", "transform ops"] if report.transform else []
    for target in report.targets:
        header += [f"{target.name} cycles", "ms", "%"]
    lines = [header]
    for row in report.rows():
        line = [row["layer"], row["kind"], _shape(row), f"{row['params']:,}", f"{row['macs']:,}"]
        line += [_share(row["macs_percent"]), *([_whole(row["additions"])] if adds else []), _whole(row["live_bytes"])]
        if report.transform:
            line += [
                _cheaper(row["direct_ops"], row["transform_ops"]),
                _cheaper(row["transform_ops"], row["direct_ops"]),
            ]
        for target in report.targets:
            ms = row[f"{target.name}_ms"]
            line += [_whole(row[f"{target.name}_cycles"]), "?" if ms is None else f"{ms:.3f}"]
            line.append(_share(row[f"{target.name}_percent"]))
        lines.append(line)
    last = ["total", "", "", f"{totals['params']:,}", f"{totals['macs']:,}", ""]
    last += [*([_whole(totals["additions"])] if adds else []), _whole(totals["memory"]), *([""] * 2 * report.transform)]
    for target in report.targets:
        last += [_whole(totals["cycles"][target.name]), f"{totals['ms'][target.name]:.3f}", ""]
    return [*lines, last]


def _notes(report: CostReport) -> list[str]:
    """Peak memory, intervals, what fits where, and everything that has no price."""
    totals, text = report.totals(), [_memory(report)]
    for name, (low, high) in report.intervals().items():
        text.append(f"90 % interval of the time on {name}: {low:.3f} to {high:.3f} ms")
    if report.deployment is not None:
        text += [str(report.deployment), *(report.deployment.verdict(target) for target in report.targets)]
    for target in report.targets:
        if missing := totals["without_law"][target.name]:
            text.append(f"{target.name} has no law for {listed(missing)}: its total is a lower bound")
        text += dict.fromkeys(lacks for layer in report.layers if (lacks := target.lacks(layer.shape)))
        energy = totals["energy_uj"].get(target.name)
        if energy is not None:
            text.append(f"energy on {target.name}: {energy:,.1f} uJ at {target.active_power_mw:g} mW")
    if report.transform:
        text.append("operations of convolutions: * the cheaper way; a modular operation counts as two")
    if report.unpriced:
        text.append(f"without a price, in no total: {listed(report.unpriced)}")
    if report.free:
        text.append(f"free by convention: {listed(report.free)}")
    return text


def _memory(report: CostReport) -> str:
    given, best = report.memory.given, report.memory.best
    text = f"peak memory {_whole(given.size)} B (8 bit) at {given.step}, live: {', '.join(given.live)}"
    if best.size < given.size:
        proof = "the smallest there is" if report.memory.exact else "found by a greedy search"
        text += f"; {_whole(best.size)} B in another order, {proof}"
    return text


def _shape(row: dict[str, Any]) -> str:
    text = f"{row['in']}->{row['out']}"
    if row["kernel"]:
        text += f" {row['kernel']}"
    if any(size != "1" for size in row["stride"].split("x") if size):
        text += f"/{row['stride'].split('x')[0]}"
    if row["groups"] not in (1, row["in"]):
        text += f" g{row['groups']}"
    return text + (f" @{row['output']}" if row["output"] else "")


def _whole(number: Any) -> str:
    return "?" if number is None else f"{number:,}"


def _cheaper(own: int | None, other: int | None) -> str:
    return "" if own is None or other is None else f"{own:,}{' *' if own < other else '  '}"


def _share(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.1f}"
