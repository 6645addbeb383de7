"""`.tflite` files for TensorFlow Lite for Microcontrollers: converted, quantised, and run in the real interpreter first."""

from __future__ import annotations

import inspect
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nasopt.checked import checked_but
from nasopt.cost import Target
from nasopt.errors import ConfigError, ExportError, nearest
from nasopt.export import c_program
from nasopt.export.accuracy import Metric, accuracies, metric_name, top1
from nasopt.export.batches import calibration_tensors, first_and_all, iterate, required_inputs, split_batch
from nasopt.export.compare import check_float, relative_rms
from nasopt.export.file import writable, write_all
from nasopt.export.litert import Flat, calibrate, convert, layer_finder, litert_invoke, quantise, require_litert
from nasopt.export.report import DeviceFile, ExportReport, target_costs
from nasopt.export.subject import Subject, make_subject, refuse_quantised
from nasopt.export.tflite_file import File
from nasopt.export.tflite_model import Array, Invoke, Operation, Port, TfliteModel, sample_runner
from nasopt.export.tflm import measure_arena, missing_operations, tflm_invoke

# Of the values that an activation took, this share may lie above its range, and this share below.
CLIPPED = {"minmax": 0.0, "percentile": 1e-5}
LAYOUTS = ("nhwc", "nchw")
RUNTIMES = ("tflm", "litert")
CRASH_IN_INT8 = ("EMBEDDING_LOOKUP",)  # ends the process, which nothing here could catch
LOOKED_AT = 16  # samples that TFLM, which is slow, is compared on


@checked_but("found", "path", "calibration")
def to_tflite(
    found: nn.Module,
    path: str | os.PathLike[str],
    calibration: Iterable[Any] | None = None,
    data: Iterable[Any] | None = None,
    layout: str = "nhwc",
    targets: Sequence[str | Target] = (),
    c_array: bool = False,
    *,
    example: Any = None,
    max_batches: int | None = None,
    method: str = "percentile",
    metric: Metric = top1,
    runtime: str = "tflm",
    tolerance: float = 0.5,
) -> ExportReport:
    """Write the network as a `.tflite` file of one sample: full-integer int8 with a calibration set, float without.

    ```python
    report = to_tflite(found, "found.tflite", train_loader, test_loader, targets=["cortex_m4"], c_array=True)
    print(report.device.arena)
    ```

    The float file is compared with the network in LiteRT; the file that is written has run in LiteRT and in TFLM's own
    interpreter before it gets its name.

    Args:
        found: what `arch_export()` returned; it stays as it is, and its mode does not matter.
        path: of the file; an older one is replaced.
        calibration: batches of real inputs, `x` or `(x, y)`, a few hundred samples: they set the range of activations.
        data: batches of `(x, y)` on which network and files are judged, in TFLM, too.
        layout: of inputs and outputs with channels and positions: `"nhwc"` (channels last, as cameras and the kernels have
            them, `(1, 1, T, C)` of what is `(B, C, T)` in torch) or `"nchw"` (torch's, at the price of a TRANSPOSE).
        targets: embedded targets whose expected latency, memory and energy the report shall name.
        c_array: also write `NAME_model.h`, `NAME_model.cc` (the file as an array, arena size, scales, one test vector) and
            `NAME_main.cc` (a program for TFLM that runs the test vector) beside the file.
        example: a batch, where there is neither calibration nor data.
        max_batches: look at so many of the calibration set; default: all.
        method: how a range follows from what was seen: `"percentile"` (of 99.999 % of the values) clips rare values,
            `"minmax"` does not.
        metric: `(outputs, targets) -> float`.
        runtime: `"tflm"`, or `"litert"` for a file that TFLM need not run: the report tells what it lacks.
        tolerance: largest root mean square of the rounding error of an output on the first batch, relative to the output's.

    Raises:
        MissingExtraError: the extra `litert` is not installed.
        ConfigError: an argument cannot be used: no calibration batch, say, or a `path` that cannot be written.
        ExportError: the converter or TFLM lacks an operation (the message names it and its layer), or a file computes
            something else. Nothing is left.
    """
    refuse_quantised(found, "to_tflite")
    require_litert("to_tflite")
    for name, value, known in (
        ("layout", layout, LAYOUTS),
        ("method", method, CLIPPED),
        ("runtime", runtime, RUNTIMES),
    ):
        if value not in known:
            raise ConfigError(f"{name} {value!r}: use {', '.join(known)}.{nearest(str(value), known)}")
    if c_array and runtime != "tflm":
        raise ConfigError("c_array=True writes a program for TFLM: it needs runtime='tflm'")
    destination = writable(path)
    names = c_program.Names.beside(destination) if c_array else None
    for extra in names.paths if names else ():
        writable(extra)
    batches: Iterable[Any] = ()
    if calibration is not None:
        example, batches = first_and_all(calibration, max_batches)
    elif example is None:
        if data is None:
            raise ConfigError("an example is needed to convert the network: give calibration, data or example")
        chained = iterate(data, "data")
        example = next(chained, None)
        if example is None:
            raise ConfigError("data holds no batch: give batches of (x, y), or no data and an example")
        data = itertools.chain([example], chained)
    inputs = required_inputs(found) if isinstance(found, nn.Module) else 1
    subject = make_subject(found, split_batch(example, inputs)[0])
    if calibration is not None and subject.binary:
        raise ConfigError(
            f"layer {subject.binary[0]!r} is a binary convolution, which int8 would turn into a larger one whose signs flip: "
            "write a float file (no calibration), or to_int8_onnx, which keeps these layers in float"
        )
    costs = target_costs(subject, targets)

    flat, float_content = convert_as(subject, layout, calibration is not None)
    float_file = File.of(float_content, flat)
    float_run = sample_runner(float_file.inputs, float_file.outputs, litert_invoke(float_content))
    difference = check_float(subject, float_run, subject.trials(any_batch=True), "the float LiteRT file")
    int8 = calibration is not None
    file = float_file
    if int8:
        if runtime == "tflm":
            _refuse(float_file)
        for operation in float_file.of_kinds(CRASH_IN_INT8):
            raise ExportError(
                f"{operation.kind} (layer {operation.layer!r}) cannot be int8: the runtimes crash on it, so nothing was written. "
                "Look the embedding up outside of the network, or write a float file (no calibration)"
            )
        ranges = calibrate(float_content, _samples(subject, batches, float_file.inputs), CLIPPED[method])
        file = File.of(TfliteModel(quantise(float_content, ranges)).content(), flat)
    lacking = _refuse(file) if runtime == "tflm" else file.of_kinds(missing_operations(file.content))
    arena = measure_arena(file.content) if runtime == "tflm" else None
    contents = {destination: file.content}
    if arena is not None and names is not None:
        contents |= c_program.contents(names, file, arena, subject.samples(1))

    def judge(drafts: Mapping[Path, Path]) -> tuple[float, float | None, int | None, dict[str, float]]:
        content = drafts[destination].read_bytes()
        invokes = {"int8" if int8 else "float": litert_invoke(content)}
        if arena is not None:
            invokes["tflm"] = tflm_invoke(content, arena.needed)
        runs = {name: sample_runner(file.inputs, file.outputs, invoke) for name, invoke in invokes.items()}
        few = [x[:LOOKED_AT] if x.dim() else x for x in subject.tensors]
        errors = {"difference": difference}
        for name, run in runs.items():
            what = f"the {name} file" if name != "tflm" else "the file in TFLM"
            if not int8:
                errors["difference"] = max(errors["difference"], check_float(subject, run, [few], what))
                continue
            error = relative_rms(subject, run, few if name == "tflm" else subject.tensors, what)
            if not error <= tolerance:
                raise ExportError(
                    f"rounding changes the outputs of {what} by {error:.0%} of their root mean square (allowed "
                    f"{tolerance:.0%}), so nothing was written. Give more batches of real data for calibration, or another "
                    f"method than {method!r}"
                )
            errors[name] = error
        steps = _steps(file, list(invokes.values()), few) if int8 and arena is not None else None
        runners = {"torch": subject.run, **({"float": float_run} if int8 else {}), **runs}
        figures = {} if data is None else accuracies(subject, runners, data, metric, None)
        return errors["difference"], errors.get("int8"), steps, figures

    difference, int8_difference, steps, figures = write_all(contents, judge)
    return ExportReport(
        path=destination,
        form="int8 LiteRT file" if int8 else "float LiteRT file",
        batch=1,
        file_bytes=len(file.content),
        float_file_bytes=len(float_content) if int8 else None,
        difference=difference,
        int8_difference=int8_difference,
        accuracy=figures,
        metric=metric_name(metric),
        costs=costs,
        notes=subject.notes,
        device=DeviceFile(
            inputs=file.inputs,
            outputs=file.outputs,
            operations=dict(Counter(operation.kind for operation in file.operations)),
            in_float=tuple((o.kind, o.layer) for o in file.operations if o.is_float) if int8 else (),
            lacking=tuple((o.kind, o.layer) for o in lacking),
            arena=arena,
            steps=steps,
            files=tuple(path for path in contents if path != destination),
        ),
    )


def convert_as(subject: Subject, layout: str, integers: bool = False) -> tuple[Flat, bytes]:
    """`(network in the layout, float file)`; what the network itself moves about keeps torch's order.

    Raises:
        ExportError: the network cannot be converted.
    """
    ranks = [x.dim() for x in subject.run(subject.tensors)]
    inputs, outputs = (
        [layout == "nhwc" and rank >= 3 for rank in side] for side in ([x.dim() for x in subject.tensors], ranks)
    )
    flat, model = _converted(subject, inputs, outputs, ranks, integers)
    moved = model.moved_ports()
    kept = [[last and not moves for last, moves in zip(*side)] for side in zip((inputs, outputs), moved)]
    if kept != [inputs, outputs]:
        other_flat, other = _converted(subject, kept[0], kept[1], ranks, integers)
        if other.count("TRANSPOSE") < model.count("TRANSPOSE"):
            flat, model = other_flat, other
    return flat, model.content()


def _converted(
    subject: Subject,
    inputs_last: Sequence[bool],
    outputs_last: Sequence[bool],
    ranks: Sequence[int],
    integers: bool,
) -> tuple[Flat, TfliteModel]:
    flat = Flat(subject, inputs_last, outputs_last, ranks, integers)
    model = TfliteModel(convert(flat))
    model.suit_tflm()
    model.tidy(input_names(subject), layer_finder(subject.written))
    return flat, model


def input_names(subject: Subject) -> list[str]:
    """Names of the inputs: those of the arguments of `forward`, numbered where one holds several tensors."""
    args, kwargs = subject.arguments
    bound = inspect.signature(subject.network.forward).bind(*args, **kwargs).arguments
    names = []
    for name, value in bound.items():
        count = sum(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))
        names += [name] if count == 1 else [f"{name}_{i}" for i in range(count)]
    return names


def _samples(subject: Subject, batches: Iterable[Any], ports: Sequence[Port]) -> Iterator[list[Array]]:
    """Calibration samples as the file takes them."""
    for tensors in calibration_tensors(subject, batches, None):
        for i in range(max((len(x) for x in tensors if x.dim()), default=1)):
            yield [port.encode(x[i : i + 1] if x.dim() else x) for port, x in zip(ports, tensors, strict=True)]


def _steps(file: File, invokes: Sequence[Invoke], tensors: Sequence[Tensor]) -> int:
    """Largest difference of stored outputs between two ways to run a file."""
    worst = 0
    for i in range(max((len(x) for x in tensors if x.dim()), default=1)):
        sample = [x[i : i + 1] if x.dim() else x for x in tensors]
        stored = [port.encode(x) for port, x in zip(file.inputs, sample, strict=True)]
        for one, other in zip(*(invoke(stored) for invoke in invokes)):
            worst = max(worst, int(np.abs(one.astype(np.int64) - other.astype(np.int64)).max(initial=0)))
    return worst


def _refuse(file: File) -> tuple[Operation, ...]:
    """Nothing, or an `ExportError` that names operations without a kernel in TFLM."""
    lacking = file.of_kinds(missing_operations(file.content))
    if not lacking:
        return ()
    listed = ", ".join(dict.fromkeys(f"{o.kind} (layer {o.layer!r})" for o in lacking))
    raise ExportError(
        f"TFLM has no kernel for {listed}, so nothing was written. Put another layer there (ReLU, Hardswish, Sigmoid and Tanh "
        "are known activations), compute it outside of the network, or write the file for LiteRT alone with runtime='litert'"
    )
