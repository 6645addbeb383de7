"""ONNX files of quantised networks: weights stored in 8, 4 or 2 bits, learned ranges, integer operators in the runtime."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nasopt.checked import checked_but
from nasopt.cost import Target
from nasopt.errors import ExportError
from nasopt.export.accuracy import Metric, accuracies, metric_name, top1
from nasopt.export.compare import Runner
from nasopt.export.file import writable, write_checked
from nasopt.export.integer import IntegerProgram, integer_program
from nasopt.export.integer.onnx_graph import STORED, zero_point
from nasopt.export.integer.onnx_model import onnx_model
from nasopt.export.integer.samples import one_sample
from nasopt.export.onnx_file import opset_of, require_onnx, serialised
from nasopt.export.report import ExportReport, target_costs
from nasopt.export.runtime import open_session, session_runner
from nasopt.export.subject import make_subject

# Of the integers at all points: the runtime multiplies in single precision and rounds ties to even.
ALLOWED, ALLOWED_OF_WORDS = 1e-3, 0.05


@checked_but("found", "path")
def to_quantised_onnx(
    found: nn.Module,
    path: str | os.PathLike[str],
    data: Iterable[Any] | None = None,
    targets: Sequence[str | Target] = (),
    *,
    metric: Metric = top1,
    example: Any = None,
    leave_out_tail: bool = False,
) -> ExportReport:
    """Write a quantised network as an ONNX file, with its own steps: nothing is calibrated.

    ```python
    print(to_quantised_onnx(model.arch_export(), "found.onnx", data=test_loader, targets=["gap9_ne16"]))
    ```

    Weights are stored in 8, 4 or 2 bits, cast to int8 behind that; activations below 8 bits are bytes with bounds. ONNX
    Runtime runs it as integer operators. The file is loaded with its default options, and its integers at every point are
    compared with those of `integer_program(found)` before it gets its name.

    Args:
        found: what `arch_export()` of a model with `precision=` returned; it stays as it is.
        path: of the file; an older one is replaced.
        data: batches of `(x, y)` on which network and file are judged.
        targets: embedded targets whose expected latency, memory and energy the report shall name.
        metric: `(outputs, targets) -> float`.
        example, leave_out_tail: as of `integer_program`.

    Raises:
        MissingExtraError: the extra `onnx` is not installed.
        ConfigError: nothing in `found` is quantised; `path` cannot be written.
        ExportError: there is no integer program, or the file computes something else. Nothing is left.
    """
    require_onnx("to_quantised_onnx")
    destination = writable(path)
    program = integer_program(found, example, leave_out_tail)
    inputs, read = _all_inputs(found, example, program)
    subject = make_subject(found, inputs if len(inputs) > 1 else inputs[0])
    costs = target_costs(subject, targets)
    differ, all_points = compare_points(program, onnx_model(program, points=True))
    wide = any(value.bits == 16 for value in program.values_by_name.values())
    if differ > (ALLOWED_OF_WORDS if wide else ALLOWED) * all_points:
        raise ExportError(
            f"{differ} of {all_points} integers of the file differ from the network's, so nothing was written: please report it"
        )
    model = onnx_model(program)
    content = serialised(model)

    def judge(draft: Path) -> dict[str, float]:
        open_session(draft, exact=False)  # default options
        run = session_runner(draft)
        runners: dict[str, Runner] = {"torch": subject.run, "file": lambda tensors: run([tensors[i] for i in read])}
        return {} if data is None else accuracies(subject, runners, data, metric, None)

    figures = write_checked(destination, content, judge)
    return ExportReport(
        path=destination,
        form=f"quantised ONNX, opset {opset_of(model)}",
        batch=None,
        file_bytes=len(content),
        difference=None,
        integers=(differ, all_points),
        accuracy=figures,
        metric=metric_name(metric),
        costs=costs,
        notes=(*subject.notes, *_notes(program)),
    )


def _all_inputs(found: Any, example: Any, program: IntegerProgram) -> tuple[list[Tensor], list[int]]:
    """Random inputs of the network, those that it does not read included, and which of them the file has."""
    inputs, read = random_inputs(program, 2), sorted(one.position for one in program.inputs)
    if len(read) == len(program.arguments):
        return inputs, read
    values = [x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in one_sample(found, example)]
    values = [torch.cat([x, x]) if isinstance(x, Tensor) and x.dim() else x for x in values]
    for position, x in zip(read, inputs):
        values[position] = x
    last = max(i for i, x in enumerate(values) if isinstance(x, Tensor))
    return values[: last + 1], read


def random_inputs(program: IntegerProgram, samples: int) -> list[Tensor]:
    """Real inputs that reach all over the grids, `samples` of each; the same at every call."""
    generator = np.random.default_rng(0)
    found: list[Any] = [None] * len(program.arguments)
    for one in program.inputs:
        value = program.values_by_name[one.value]
        shape = (samples * value.shape[0], *value.shape[1:])
        x = generator.normal(0, 0.4, shape) * max(value.high, -value.low) * value.step
        found[one.position] = torch.from_numpy(x).float()
    return [x for x in found if x is not None]


def compare_points(program: IntegerProgram, model: Any, samples: int = 3) -> tuple[int, int]:
    """`(integers that differ, all)` at every value of a program, of a model with points.

    Raises:
        ExportError: the runtime does not load or run it.
    """
    inputs = random_inputs(program, samples)
    with tempfile.TemporaryDirectory(prefix="nasopt-") as folder:
        draft = Path(folder, "points.onnx")
        draft.write_bytes(serialised(model))
        session = open_session(draft)
        names = [entry.name for entry in session.get_outputs()]
        feed = {entry.name: x.numpy() for entry, x in zip(session.get_inputs(), inputs, strict=True)}
        found = dict(zip(names, session.run(None, feed)))
    by_position = {one.position: x for one, x in zip(sorted(program.inputs, key=lambda one: one.position), inputs)}
    wanted = program.values(*(by_position.get(i, np.zeros(0)) for i in range(len(program.arguments))))
    differ = total = 0
    for name, array in found.items():
        if name in wanted:
            value = program.values_by_name[name]
            stored = array.astype(np.int64) - zero_point(value)
            differ += int((wanted[name].reshape(array.shape) != stored).sum())
            total += array.size
    return differ, total


def _notes(program: IntegerProgram) -> Iterator[str]:
    stored: Counter[tuple[int, str]] = Counter()
    for step in program.steps:
        if step.kind == "accumulate":
            widths = step.arrays.get("channel_bits", np.array([step.settings["weight_bits"]]))
            for bits in widths.tolist():
                stored[bits, STORED[bits]] += step.arrays["weight"].size // len(widths)
    yield "weights: " + ", ".join(
        f"{count:,} of {bits} bits stored as {kind}" for (bits, kind), count in sorted(stored.items())
    )
    if any(value.bits == 16 for value in program.values_by_name.values()) or any(bits == 16 for bits, _ in stored):
        yield "ONNX Runtime computes layers of 16 bits in floats"
    if program.left_out:
        yield f"left out behind the last integer: {', '.join(program.left_out)}"
