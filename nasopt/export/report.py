"""Report of an export: sizes, differences, accuracies and expected costs as one plain value."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasopt.cost import Target, cost_report, get_target
from nasopt.export.subject import Subject
from nasopt.export.tflite_model import Port
from nasopt.tables import align, html_table, listed


@dataclass(frozen=True)
class TargetCost:
    """What the network is expected to cost on an embedded target, in int8, batch 1, by the models of `nasopt.cost`.

    Attributes:
        target: its name.
        latency_ms: of the layers that the target has a law for [ms].
        memory_bytes: peak of live activations [B].
        ram_bytes: what the target has [B], 0 where it is not known.
        energy_uj: [uJ], None where nobody knows the target's power.
        missing: layers without a law, which are in no figure: with any, latency and energy are lower bounds.
    """

    target: str
    latency_ms: float
    memory_bytes: int
    ram_bytes: int
    energy_uj: float | None
    missing: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{'at least ' if self.missing else ''}{self.latency_ms:.3f} ms, {self.memory_bytes:,} B of activations"
        if self.ram_bytes:
            text += f" ({self.ram_bytes:,} B RAM)"
        if self.energy_uj is not None:
            text += f", {self.energy_uj:,.1f} uJ"
        return text + (f"; no law for {listed(self.missing)}" if self.missing else "")


@dataclass(frozen=True)
class Arena:
    """Memory that TFLM's interpreter takes for a file [B].

    Attributes:
        planned: tensors and scratch buffers as its planner placed them.
        whole: these and the data that lives as long as the interpreter; a pointer counts 8 bytes here, 4 on the chip.
        needed: the smallest arena that it starts with, a multiple of 16.
    """

    planned: int
    whole: int
    needed: int

    def __str__(self) -> str:
        return f"{self.needed:,} B needed: {self.planned:,} B of tensors, {self.whole - self.planned:,} B persistent"


@dataclass(frozen=True)
class DeviceFile:
    """What a file for a microcontroller holds, and what its runtime said of it.

    Attributes:
        inputs, outputs: names, shapes, types, scales and zero points.
        operations: how many of each kind.
        in_float: `(operation, layer)` that an int8 file computes in float.
        lacking: `(operation, layer)` that the runtime has no kernel for.
        arena: what the runtime took, None where it did not run the file.
        steps: largest difference between the int8 outputs of TFLM and of LiteRT [steps of the output]; None of float files.
        files: further files: the C program.
        runtime: its name.
        planned: bytes of tensors in the runtime's own plan, where it makes one and was not run.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operations: Mapping[str, int]
    in_float: tuple[tuple[str, str], ...] = ()
    lacking: tuple[tuple[str, str], ...] = ()
    arena: Arena | None = None
    steps: int | None = None
    files: tuple[Path, ...] = ()
    runtime: str = "TFLM"
    planned: int | None = None

    def rows(self) -> list[tuple[str, str]]:
        """Lines of the report."""
        rows = [("input", str(port)) for port in self.inputs] + [("output", str(port)) for port in self.outputs]
        rows.append(("operations", ", ".join(f"{count} {kind}" for kind, count in self.operations.items())))
        rows += [("in float", f"{kind} of {layer}") for kind, layer in self.in_float]
        rows += [(f"not in {self.runtime}", f"{kind} of {layer}") for kind, layer in self.lacking]
        if self.planned is not None:
            rows.append((f"{self.runtime} plan", f"{self.planned:,} B of tensors"))
        else:
            rows.append((f"{self.runtime} arena", str(self.arena) if self.arena else "not run"))
        if self.steps is not None:
            rows.append(("TFLM, LiteRT", f"int8 outputs differ by {self.steps} steps at most"))
        return rows + [("C program", str(path)) for path in self.files]


@dataclass(frozen=True)
class ExportReport:
    """Result of an export; `print` shows it readably.

    Attributes:
        path: of the file, or None where none was asked for.
        form: what was written.
        batch: the number of samples that the network's own forward fixes, or None: any number.
        file_bytes: size of the file [B].
        difference: of the float outputs from torch's, relative to the largest output; None where no float file was made.
        int8_difference: of the int8 outputs from torch's, root mean squares, relative; None for float files.
        float_file_bytes: size of the float file of the same network [B]; None for float files.
        int8_layers: `(in int8, all)` of convolutions and products with weights; None for float files.
        integers: `(that differ from the network's, all)` at every point of a quantised network; None of other files.
        accuracy: the metric by form, empty without `data`.
        metric: its name.
        costs: one per target.
        notes: what else one should know, as sentences.
        device: of a file for a microcontroller.
        program: of `to_exported_program`.
    """

    path: Path | None
    form: str
    batch: int | None
    file_bytes: int | None
    difference: float | None
    int8_difference: float | None = None
    float_file_bytes: int | None = None
    int8_layers: tuple[int, int] | None = None
    integers: tuple[int, int] | None = None
    accuracy: Mapping[str, float] = field(default_factory=dict)
    metric: str = "top1"
    costs: tuple[TargetCost, ...] = ()
    notes: tuple[str, ...] = ()
    device: DeviceFile | None = None
    program: Any = field(default=None, repr=False)

    def __str__(self) -> str:
        return "\n".join([self._title(), *("  " + line for line in align(self._rows(), left=2))])

    def _repr_html_(self) -> str:
        return html_table([("", ""), *self._rows()], left=2, title=self._title())

    def _title(self) -> str:
        return self.form if self.path is None else f"{self.path}: {self.form}"

    def _rows(self) -> list[tuple[str, str]]:
        if self.device is not None:
            samples = "one sample per run"
        elif self.batch is None:
            samples = "any number of samples"
        else:
            samples = f"{self.batch}, fixed by the network's forward"
        rows = [("batch", samples)]
        if self.file_bytes is not None:
            text = f"{self.file_bytes:,} B"
            if self.float_file_bytes:
                text += f", float {self.float_file_bytes:,} B"
            rows.append(("file", text))
        if self.int8_layers is not None:
            rows.append(("int8", "{} of {} layers with weights".format(*self.int8_layers)))
        texts = [] if self.difference is None else [f"float {self.difference:.1e} of the largest"]
        if self.int8_difference is not None:
            texts.append(f"int8 {self.int8_difference:.2%} of their root mean square")
        if self.integers is not None:
            texts.append("{:,} of {:,} integers at all points".format(*self.integers))
        rows.append(("outputs differ by" if self.integers is None else "differ", ", ".join(texts)))
        if self.accuracy:
            figures = (f"{name} {self._figure(value)}" for name, value in self.accuracy.items())
            rows.append((self.metric, ", ".join(figures)))
        if self.device is not None:
            rows += self.device.rows()
        rows += [(cost.target, str(cost)) for cost in self.costs]
        return rows + [("note", note) for note in self.notes]

    def _figure(self, value: float) -> str:
        return f"{value:.2%}" if self.metric == "top1" else f"{value:.4f}"


def target_costs(subject: Subject, targets: Sequence[str | Target]) -> tuple[TargetCost, ...]:
    """Expected costs on every target.

    Raises:
        ConfigError: an unknown target.
    """
    if isinstance(targets, (str, Target)):
        targets = [targets]
    platforms = [get_target(target) for target in targets]
    if not platforms:
        return ()
    args, kwargs = subject.arguments
    bound = inspect.signature(subject.network.forward).bind(*args, **kwargs)
    example: Any = dict(bound.arguments) if kwargs else tuple(args)
    report = cost_report(subject.network, input_example=example, targets=platforms)
    totals = report.totals()
    return tuple(
        TargetCost(
            target.name,
            totals["ms"][target.name],
            totals["memory"],
            target.ram_bytes,
            totals["energy_uj"].get(target.name),
            (*totals["without_law"][target.name], *report.unpriced),
        )
        for target in platforms
    )
