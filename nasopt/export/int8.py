"""Int8 ONNX files: ONNX Runtime's static quantiser, on real batches, in QDQ form."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from torch import nn

from nasopt.checked import checked_but
from nasopt.cost import Target
from nasopt.errors import ConfigError, ExportError, nearest
from nasopt.export.accuracy import Metric, accuracies, metric_name, top1
from nasopt.export.batches import calibration_tensors, first_and_all, required_inputs, split_batch
from nasopt.export.compare import check_float, relative_rms
from nasopt.export.file import writable, write_checked
from nasopt.export.onnx_file import convert, opset_of, require_onnx, serialised, tidy
from nasopt.export.program import quiet
from nasopt.export.report import ExportReport, target_costs
from nasopt.export.runtime import session_runner
from nasopt.export.subject import Subject, make_subject, refuse_quantised
from nasopt.extras import import_extra

METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
WITH_WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@checked_but("found", "path", "calibration")
def to_int8_onnx(
    found: nn.Module,
    path: str | os.PathLike[str],
    calibration: Iterable[Any],
    *,
    max_batches: int | None = None,
    method: str = "percentile",
    reduce_range: bool = False,
    data: Iterable[Any] | None = None,
    metric: Metric = top1,
    targets: Sequence[str | Target] = (),
    tolerance: float = 0.5,
    opset: int | None = None,
) -> ExportReport:
    """Write the network as an int8 ONNX file: static quantisation in QDQ form, weights with one scale per channel.

    ```python
    report = to_int8_onnx(found, "found.onnx", train_loader, max_batches=8, data=test_loader, targets=["cortex_m4"])
    ```

    The float file that it is made from is compared with the network, the int8 file loaded and compared as well, before it
    gets its name.

    Args:
        found: what `arch_export()` returned; it stays as it is, and its mode does not matter.
        path: of the file; an older one is replaced.
        calibration: batches of real inputs, `x` or `(x, y)`, a few hundred samples: they set the range of activations.
        max_batches: look at so many of them; default: all.
        method: how a range follows from what was seen: `"percentile"` (of 99.999 % of the values) and `"entropy"` clip
            rare values, `"minmax"` does not.
        reduce_range: weights in 7 bits, which no x86 processor saturates on; a microcontroller needs no such care.
        data: batches of `(x, y)` on which network, float file and int8 file are judged.
        metric: `(outputs, targets) -> float`.
        targets: embedded targets whose expected latency, memory and energy the report shall name.
        tolerance: largest root mean square of the rounding error of an output on the first batch, relative to the output's.
        opset: version of the operators; default: torch's.

    Raises:
        MissingExtraError: the extra `onnx` is not installed.
        ConfigError: an argument cannot be used: no calibration batch, say, or a `path` that cannot be written.
        ExportError: ONNX lacks an operation (the message names it), or a file computes something else. Nothing is left.
    """
    refuse_quantised(found, "to_int8_onnx")
    require_onnx("to_int8_onnx")
    if method not in METHODS:
        raise ConfigError(f"method {method!r}: use {', '.join(METHODS)}.{nearest(method, METHODS)}")
    destination = writable(path)
    first, batches = first_and_all(calibration, max_batches)
    inputs = required_inputs(found) if isinstance(found, nn.Module) else 1
    subject = make_subject(found, split_batch(first, inputs)[0])
    costs = target_costs(subject, targets)
    model, batch = convert(subject, opset)
    with tempfile.TemporaryDirectory(prefix="nasopt-") as folder:
        float_path = Path(folder, "float.onnx")
        float_path.write_bytes(serialised(model))
        run_float = session_runner(float_path)
        difference = check_float(subject, run_float, subject.trials(batch is None), "the float ONNX file")
        feed = _feed(subject, batches, batch, [entry.name for entry in model.graph.input])
        quantised = quantise(subject, float_path, feed, METHODS[method], reduce_range)
        content = serialised(quantised)

        def judge(draft: Path) -> tuple[float, float, dict[str, float]]:
            run = session_runner(draft)
            error = relative_rms(subject, run, subject.tensors, "the int8 file")
            if not error <= tolerance:
                raise ExportError(
                    f"rounding changes the outputs by {error:.0%} of their root mean square (allowed {tolerance:.0%}), so "
                    f"nothing was written. Give more batches of real data for calibration, or another method than {method!r}"
                )
            run_fast = session_runner(draft, exact=False)
            fast = relative_rms(subject, run_fast, subject.tensors, "the int8 file")
            for trial in subject.trials(batch is None)[1:]:
                relative_rms(subject, run, trial, "the int8 file")  # other batch sizes: shapes, finite values
            runners = {"torch": subject.run, "float": run_float, "int8": run}
            if saturates(error, fast):
                runners["int8 that saturates"] = run_fast
            return error, fast, {} if data is None else accuracies(subject, runners, data, metric, batch)

        error, fast, figures = write_checked(destination, content, judge)
        return ExportReport(
            path=destination,
            form=f"int8 ONNX in QDQ form, opset {opset_of(quantised)}",
            batch=batch,
            file_bytes=len(content),
            float_file_bytes=float_path.stat().st_size,
            difference=difference,
            int8_difference=error,
            int8_layers=count_int8(quantised),
            accuracy=figures,
            metric=metric_name(metric),
            costs=costs,
            notes=(*subject.notes, *_notes(subject, error, fast)),
        )


def _notes(subject: Subject, error: float, fast: float) -> Iterator[str]:
    if subject.binary:
        yield "binary convolutions and what lies between them stay in float, since rounding would flip signs"
    if saturates(error, fast):
        yield (
            f"ONNX Runtime's default int8 kernels saturate on this processor (outputs differ by {fast:.0%}): run the file with "
            "nasopt.export.open_session, on a processor with VNNI or on the target, or write it with reduce_range=True"
        )


def saturates(error: float, fast: float) -> bool:
    """Whether the fast kernels of this processor are clearly worse than exact ones."""
    return fast > 1.5 * error + 0.005


def _feed(
    subject: Subject, batches: Iterator[Any], batch: int | None, names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Calibration batches as the arrays that ONNX Runtime takes."""
    for tensors in calibration_tensors(subject, batches, batch):
        yield {name: tensor.contiguous().numpy() for name, tensor in zip(names, tensors, strict=True)}


def quantise(
    subject: Subject, float_path: Path, feed: Iterator[dict[str, Any]], method: str, reduce_range: bool
) -> Any:
    """The int8 `onnx.ModelProto` of a float file; both beside it in its folder.

    Raises:
        ExportError: ONNX Runtime's quantiser fails.
    """
    onnx = import_extra("onnx", "onnx", "to_int8_onnx")
    tools = import_extra("onnxruntime.quantization", "onnx", "to_int8_onnx")
    shapes = import_extra("onnxruntime.quantization.shape_inference", "onnx", "to_int8_onnx")

    batches = list(feed)

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc, name-defined]
        """One range of batches after the other, so that activations of one batch only are in memory."""

        def __len__(self) -> int:
            return len(batches)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.range = iter(batches[start_index:end_index])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.range, None)

    prepared, written = float_path.with_name("prepared.onnx"), float_path.with_name("int8.onnx")
    with quiet(), redirect_stdout(io.StringIO()):
        shapes.quant_pre_process(os.fspath(float_path), os.fspath(prepared), skip_symbolic_shape=True)
        binary_weights = {f"{path}.weight" for path in subject.binary}
        nodes = onnx.load(prepared).graph.node
        binary = [node.name for node in nodes if binary_weights.intersection(node.input)]
        if len(binary) < len(subject.binary):
            raise ExportError("binary layers cannot be told from others in the ONNX file: please report it")
        try:
            tools.quantize_static(
                os.fspath(prepared),
                os.fspath(written),
                Reader(),
                quant_format=tools.QuantFormat.QDQ,
                op_types_to_quantize=list(WITH_WEIGHTS) if binary else None,
                nodes_to_exclude=binary,
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=tools.QuantType.QInt8,
                weight_type=tools.QuantType.QInt8,
                calibrate_method=getattr(tools.CalibrationMethod, method),
                extra_options={"CalibStridedMinMax": 1},  # the stride holds for every method
            )
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ExportError(f"ONNX Runtime cannot quantise the network: {error}") from error
    model = onnx.load(written)
    tidy(model)
    return model


def count_int8(model: Any) -> tuple[int, int]:
    """`(layers that read int8 only, all)` of convolutions and products with weights."""
    source = {output: node.op_type for node in model.graph.node for output in node.output}
    weights = {entry.name for entry in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in WITH_WEIGHTS]
    layers = [n for n in layers if source.get(n.input[1]) == "DequantizeLinear" or n.input[1] in weights]
    done = [n for n in layers if all(source.get(name) == "DequantizeLinear" for name in n.input[:2])]
    return len(done), len(layers)
