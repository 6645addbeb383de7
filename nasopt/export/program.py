"""`torch.export` programs: captured for any batch where that is possible, and compared."""

from __future__ import annotations

import io
import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.checked import checked_but
from nasopt.cost import Target
from nasopt.errors import ExportError
from nasopt.export.accuracy import Metric, accuracies, metric_name, top1
from nasopt.export.compare import Runner, check_float
from nasopt.export.file import writable, write_checked
from nasopt.export.report import ExportReport, target_costs
from nasopt.export.subject import Subject, make_subject, output_tensors


@checked_but("found", "path")
def to_exported_program(
    found: nn.Module,
    example: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    data: Iterable[Any] | None = None,
    metric: Metric = top1,
    targets: Sequence[str | Target] = (),
) -> ExportReport:
    """The network as a `torch.export` program, in eval mode, compared with the network; `report.program` is it.

    Args:
        found: what `arch_export()` returned; it stays as it is.
        example: a batch: a tensor, a tuple of tensors for several inputs, or a dict of keyword arguments.
        path: also write it there (`torch.export.load` reads it): the file is loaded and compared, too.
        data: batches of `(x, y)` on which network and program are judged.
        metric: `(outputs, targets) -> float`.
        targets: embedded targets whose expected latency, memory and energy the report shall name.

    Raises:
        ConfigError: an argument cannot be used.
        ExportError: torch cannot capture the network, or the program computes something else; no file is left.
    """
    destination = None if path is None else writable(path)
    subject = make_subject(found, example)
    costs = target_costs(subject, targets)
    program, batch = capture(subject)

    def judge(run: Runner, what: str) -> tuple[float, dict[str, float]]:
        difference = check_float(subject, run, subject.trials(batch is None), what)
        runners = {"torch": subject.run, "program": run}
        return difference, {} if data is None else accuracies(subject, runners, data, metric, batch)

    def judge_file(draft: Path) -> tuple[float, dict[str, float]]:
        with quiet():
            loaded = torch.export.load(os.fspath(draft))
        return judge(_runner(subject, loaded), "the loaded program")

    content = None
    if destination is None:
        difference, figures = judge(_runner(subject, program), "the program")
    else:
        buffer = io.BytesIO()
        with quiet():
            torch.export.save(program, buffer)
        content = buffer.getvalue()
        difference, figures = write_checked(destination, content, judge_file)
    return ExportReport(
        path=destination,
        form="torch.export program",
        batch=batch,
        file_bytes=None if content is None else len(content),
        difference=difference,
        accuracy=figures,
        metric=metric_name(metric),
        costs=costs,
        notes=subject.notes,
        program=program,
    )


def capture(subject: Subject) -> tuple[torch.export.ExportedProgram, int | None]:
    """The program, and the number of samples that it is fixed to, or None where it takes any number.

    Raises:
        ExportError: torch cannot capture the network.
    """
    # Of a dimension of size 1 torch would assume that it is 1 for ever.
    doubled = subject.samples(max(2, subject.batch))
    reason: Exception | None = None
    try:
        program = _export(subject, doubled, any_batch=True)
        if _takes_any_batch(program):
            return program, None
    except Exception as error:  # torch raises types of all sorts; what matters is whether the other way works
        reason = error
    try:
        return _export(subject, subject.tensors, any_batch=False), subject.batch
    except Exception as error:
        text = str(reason or error).strip()
        line = re.search(r"The following call raised this error:\n\s*(File .*)\n\s*(.*)", text)
        where = f", at {line[1]}: {line[2]}" if line else ""
        raise ExportError(
            f"torch.export cannot capture {type(subject.network).__name__}: {text.splitlines()[0] if text else error!r}{where}. "
            "A branch on the values of a tensor is the usual reason: write it with torch.where, or take it out of the network"
        ) from error


def _export(subject: Subject, tensors: Sequence[Tensor], any_batch: bool) -> torch.export.ExportedProgram:
    args, kwargs = subject.with_tensors([tensor.clone() for tensor in tensors])
    shapes = torch.export.ShapesCollection()
    for leaf in torch.utils._pytree.tree_leaves((args, kwargs)):
        if any_batch and isinstance(leaf, Tensor) and leaf.dim():
            shapes[leaf] = {0: torch.export.Dim.AUTO}
    with quiet(), torch.no_grad():
        dynamic = shapes.dynamic_shapes(subject.written, tuple(args), kwargs)
        return torch.export.export(subject.written, tuple(args), kwargs, dynamic_shapes=dynamic, strict=False)


def calling_layer(program: torch.export.ExportedProgram, operation: str) -> str:
    """`", called by layer '1' (GELU)"` for the first call of an operation like `aten.gelu.default`, `""` where none is found."""
    with quiet():
        graphs = [program.graph, program.run_decompositions().graph]
    for graph in graphs:
        for node in graph.nodes:
            stack = node.meta.get("nn_module_stack")
            if node.op == "call_function" and str(node.target) == operation and stack:
                path, kind = list(stack.values())[-1]
                kind = kind if isinstance(kind, str) else kind.__name__
                return (
                    f", called by layer {path!r} ({kind.rsplit('.')[-1]})" if path else ", called by the network itself"
                )
    return ""


def _takes_any_batch(program: torch.export.ExportedProgram) -> bool:
    inputs = set(program.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    return not any(isinstance(x, Tensor) and x.dim() and isinstance(x.shape[0], int) for x in values)


def _runner(subject: Subject, program: torch.export.ExportedProgram) -> Runner:
    with quiet():
        module = program.module()

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        args, kwargs = subject.with_tensors(tensors)
        with torch.no_grad(), quiet():
            return output_tensors(module(*args, **kwargs))

    return run


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of torch's own machinery, which a user cannot act on; what matters comes as an error."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled
