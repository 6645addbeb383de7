"""Float ONNX files: captured by `torch.export`, converted, tidied, loaded and compared."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nasopt.checked import checked_but
from nasopt.cost import Target
from nasopt.errors import ExportError
from nasopt.export.accuracy import Metric, accuracies, metric_name, top1
from nasopt.export.compare import check_float
from nasopt.export.file import writable, write_checked
from nasopt.export.program import calling_layer, capture, quiet
from nasopt.export.report import ExportReport, target_costs
from nasopt.export.runtime import session_runner
from nasopt.export.subject import Subject, make_subject
from nasopt.extras import import_extra


@checked_but("found", "path")
def to_onnx(
    found: nn.Module,
    path: str | os.PathLike[str],
    example: Any,
    *,
    data: Iterable[Any] | None = None,
    metric: Metric = top1,
    targets: Sequence[str | Target] = (),
    opset: int | None = None,
) -> ExportReport:
    """Write the network as a float ONNX file, norms folded into the layers before them, for batches of any size.

    ```python
    print(to_onnx(model.arch_export(), "found.onnx", x, data=test_loader, targets=["cortex_m4"]))
    ```

    The file is loaded in ONNX Runtime and compared with the network before it gets its name.

    Args:
        found: what `arch_export()` returned; it stays as it is, and its mode does not matter.
        path: of the file; an older one is replaced.
        example: a batch: a tensor, a tuple of tensors for several inputs, or a dict of keyword arguments.
        data: batches of `(x, y)` on which network and file are judged.
        metric: `(outputs, targets) -> float`.
        targets: embedded targets whose expected latency, memory and energy the report shall name.
        opset: version of the operators; default: torch's.

    Raises:
        MissingExtraError: the extra `onnx` is not installed.
        ConfigError: an argument cannot be used; `path` cannot be written.
        ExportError: ONNX lacks an operation (the message names it), or the file computes something else. Nothing is left.
    """
    require_onnx("to_onnx")
    destination = writable(path)
    subject = make_subject(found, example)
    costs = target_costs(subject, targets)
    model, batch = convert(subject, opset)

    def judge(draft: Path) -> tuple[float, dict[str, float]]:
        run = session_runner(draft)
        difference = check_float(subject, run, subject.trials(batch is None), "the ONNX file")
        runners = {"torch": subject.run, "float": run}
        return difference, {} if data is None else accuracies(subject, runners, data, metric, batch)

    content = serialised(model)
    difference, figures = write_checked(destination, content, judge)
    return ExportReport(
        path=destination,
        form=f"float ONNX, opset {opset_of(model)}",
        batch=batch,
        file_bytes=len(content),
        difference=difference,
        accuracy=figures,
        metric=metric_name(metric),
        costs=costs,
        notes=subject.notes,
    )


def require_onnx(user: str) -> None:
    """Raises `MissingExtraError` where a package of the extra `onnx` is missing."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        import_extra(package, "onnx", user)


def convert(subject: Subject, opset: int | None) -> tuple[Any, int | None]:
    """`(onnx.ModelProto, fixed batch or None)`.

    Raises:
        ExportError: torch cannot capture the network, or an operation has no counterpart.
    """
    program, batch = capture(subject)
    count = len(subject.run(subject.tensors))
    names = ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
    try:
        with quiet():
            converted = torch.onnx.export(
                program, dynamo=True, verbose=False, optimize=True, output_names=names, opset_version=opset
            )
    except (RuntimeError, ValueError) as error:
        raise ExportError(_explain(error, program)) from error
    assert converted is not None
    model = converted.model_proto
    tidy(model)
    if opset not in (None, opset_of(model)):
        raise ExportError(
            f"the network cannot be written with opset {opset}, torch's converter has {opset_of(model)}: ask for a newer one"
        )
    return model, batch


def _explain(error: BaseException, program: torch.export.ExportedProgram) -> str:
    """Which operation, in which layer, from the chain of exceptions of the converter."""
    text, cause = "", error
    while cause is not None:
        text += f"\n{cause}"
        cause = cause.__cause__  # type: ignore[assignment]
    found = re.search(r"OpOverload\(op='([\w.]+)', overload='(\w+)'\)", text)
    if found is None:
        reason = next((line for line in reversed(text.splitlines()) if line.strip()), repr(error))
        return f"the network cannot be converted to ONNX, so nothing was written: {reason}"
    operation = found[1].replace("aten.", "torch.ops.aten.")
    where = calling_layer(program, f"{found[1]}.{found[2]}")
    return (
        f"ONNX has no operation for {operation}{where}, so nothing was written. Put another layer there, or leave it out of "
        "the exported network and compute it elsewhere"
    )


def tidy(model: Any) -> None:
    """Remove what tells of this machine (stack traces, file names) and call the free dimension "batch"."""
    symbols = [value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input if _rank(value)]
    batch = {symbol for symbol in symbols if symbol and not symbol.isdigit()}
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    for part in [model, model.graph, *model.graph.node, *model.graph.initializer, *values]:
        del part.metadata_props[:]
        part.ClearField("doc_string")
    for value in values:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in batch:
                dim.dim_param = "batch"
    used = {node.domain for node in model.graph.node} | {node.domain for f in model.functions for node in f.node}
    kept = [entry for entry in model.opset_import if entry.domain in used or entry.domain in ("", "ai.onnx")]
    entries = [(entry.domain, entry.version) for entry in kept]
    del model.opset_import[:]
    for domain, version in entries:
        model.opset_import.add(domain=domain, version=version)


def _rank(value: Any) -> int:
    return len(value.type.tensor_type.shape.dim)


def opset_of(model: Any) -> int:
    """Version of the standard operators."""
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def serialised(model: Any) -> bytes:
    """The file's bytes.

    Raises:
        ExportError: more than 2 GiB, the limit of one ONNX file.
    """
    try:
        return bytes(model.SerializeToString())
    except ValueError as error:
        raise ExportError(f"the network is too large for one ONNX file, whose limit is 2 GiB ({error})") from error
