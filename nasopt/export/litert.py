"""Conversion to `.tflite` by litert-torch, static int8 quantisation, and the LiteRT interpreter that runs the result."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nasopt.errors import ExportError
from nasopt.export.lift import TwoDimensional
from nasopt.export.program import calling_layer, capture, quiet
from nasopt.export.subject import Subject, output_tensors
from nasopt.export.tflite_model import Array, Invoke, TfliteModel
from nasopt.export.transposed import fold_norms
from nasopt.extras import import_extra

PACKAGES = ("litert_torch", "ai_edge_quantizer", "ai_edge_litert", "tflite_micro")
# A smaller range of an activation (a layer that is dead on all samples) overflows the integers of TFLM's kernels.
SMALLEST = np.float32(1e-6)
IN_FLOAT = ("SQRT",)  # TFLM's kernel takes no integers
PROGRESS = "LITERT_TORCH_SHOW_PROGRESS"


def require_litert(user: str) -> None:
    """Raises `MissingExtraError` where a package of the extra `litert` is missing."""
    with silence():
        for package in PACKAGES:
            import_extra(package, "litert", user)


class Flat(nn.Module):
    """The network as a function of its input tensors, in the file's layout, to the tuple of its output tensors.

    Every module's class is named after the module's path, since the converter names tensors after classes.

    Args:
        subject: the network.
        inputs_last, outputs_last: which of them have their channels last in the file: `(B, H, W, C)`, and what is
            `(B, C, T)` in torch is `(B, 1, T, C)`.
        output_ranks: number of torch's dimensions of each output.
        integers: whether the file will be quantised.
    """

    def __init__(
        self,
        subject: Subject,
        inputs_last: Sequence[bool],
        outputs_last: Sequence[bool],
        output_ranks: Sequence[int],
        integers: bool = False,
    ) -> None:
        super().__init__()
        self.network = fold_norms(copy.deepcopy(subject.written), subject.arguments)
        self.subject = subject
        self.inputs_last, self.outputs_last = inputs_last, outputs_last
        self.output_ranks = output_ranks
        self.integers = integers
        for path, module in self.network.named_modules():
            if path:
                names = {"__module__": "nasopt", "__qualname__": f"<{path}>"}
                module.__class__ = type(type(module).__name__, (type(module),), names)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        ranks = [x.dim() for x in self.subject.tensors]
        with TwoDimensional(self.integers) as mode:
            given = []
            for x, rank, last in zip(tensors, ranks, self.inputs_last):
                x = x.movedim(-1, 1) if last else x
                given.append(mode.flat(x) if last and rank == 3 else x)
            args, kwargs = self.subject.with_tensors(given)
            outputs = output_tensors(self.network(*args, **kwargs))
            return tuple(mode.lift(x).movedim(1, -1) if last else x for x, last in zip(outputs, self.outputs_last))

    def file_inputs(self) -> tuple[Tensor, ...]:
        """The example's first sample in the file's layout."""
        found = []
        for x, last in zip(self.subject.samples(1), self.inputs_last):
            lifted = x.unsqueeze(2) if x.dim() == 3 and last else x
            found.append(lifted.movedim(1, -1).contiguous() if last else x)
        return tuple(found)


def layer_finder(network: nn.Module) -> Callable[[Sequence[str]], str]:
    """A function from the converter's names of tensors to the path of the layer that they come from, or `""`.

    The converter joins the classes on the way to a layer by `/`, and layers that it fused by `;`. Of several layers the first
    one with weights counts (one that only activates or normalises has none of two dimensions), else the first.
    """
    heavy = {name.rpartition(".")[0] for name, weight in network.named_parameters() if weight.dim() > 1}

    def find(names: Sequence[str]) -> str:
        parts = [part for name in names for part in name.split(";")]
        paths = [path for part in parts for path in re.findall(r"nasopt\.<([^<>]+)>", part)[-1:]]
        return next((path for path in paths if path in heavy), next(iter(paths), ""))

    return find


def convert(flat: Flat) -> bytes:
    """The float `.tflite` file of one sample, as the converter writes it.

    Raises:
        ExportError: torch cannot capture the network, or the converter lacks an operation.
    """
    litert_torch = import_extra("litert_torch", "litert", "to_tflite")
    try:
        with silence(), quiet(), torch.no_grad():
            model = litert_torch.convert(flat.eval(), flat.file_inputs())
            return bytes(model.model_content())
    except Exception as error:  # torch, MLIR and the converter raise types of all sorts
        program, _ = capture(flat.subject)  # says more where it is torch that fails
        text = str(error).strip("'\" \n")
        found = re.search(r"aten\.\w+\.\w+", text)
        where = calling_layer(program, found[0]) if found else ""
        raise ExportError(
            f"litert-torch cannot convert the network, so nothing was written: {text.splitlines()[0] if text else error!r}"
            f"{where}. Put another layer there, or leave it out of the network and compute it elsewhere"
        ) from error


def calibrate(content: bytes, samples: Iterable[Sequence[Array]], clipped: float) -> dict[str, dict[str, Array]]:
    """Range of every float tensor over all samples, `{name: {"min", "max"}}`.

    Args:
        content: a float file.
        samples: arrays of its inputs.
        clipped: share of the values of a tensor that may lie above its range, and share that may lie below.
    """
    litert = import_extra("ai_edge_litert.interpreter", "litert", "to_tflite")
    with silence():
        interpreter = litert.Interpreter(
            model_content=content,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            num_threads=torch.get_num_threads(),
        )
        interpreter.allocate_tensors()
    inputs = [entry["index"] for entry in interpreter.get_input_details()]
    model = TfliteModel(content)
    written = {name for name, constant in model.tensors() if not constant}  # the quantiser sees to constants itself
    watched = [e for e in interpreter.get_tensor_details() if e["dtype"] == np.float32 and e["name"] in written]
    extremes = {entry["name"]: Extremes() for entry in watched}
    for sample in samples:
        for index, array in zip(inputs, sample, strict=True):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        for entry in watched:
            with contextlib.suppress(ValueError):  # a tensor that no operation writes has no values
                extremes[entry["name"]].add(interpreter.get_tensor(entry["index"]))
    return {name: found.limits(clipped) for name, found in extremes.items() if found.count}


class Extremes:
    """The largest and smallest values that a tensor had, as many as a clipped range may leave out."""

    KEPT = 512

    def __init__(self) -> None:
        self.count = 0
        self.low = self.high = np.zeros(0, np.float32)

    def add(self, values: Array) -> None:
        """Look at the values of one sample."""
        values = values.reshape(-1)
        self.count += values.size
        self.low = _smallest(np.concatenate([self.low, values]), self.KEPT)
        self.high = -_smallest(np.concatenate([-self.high, -values]), self.KEPT)

    def limits(self, clipped: float) -> dict[str, Array]:
        """As the quantiser takes them."""
        rank = min(int(clipped * self.count), len(self.low) - 1, self.KEPT - 1)
        low, high = np.sort(self.low)[rank], np.sort(self.high)[-1 - rank]
        high = max(high, low + SMALLEST)
        return {"min": np.full(1, low, np.float32), "max": np.full(1, high, np.float32)}


def _smallest(values: Array, count: int) -> Array:
    return values if len(values) <= count else np.partition(values, count - 1)[:count]


def quantise(content: bytes, ranges: Mapping[str, Mapping[str, Array]]) -> bytes:
    """The int8 file of a float file: int8 in, int8 out, weights with one scale per output channel, 32-bit biases.

    Raises:
        ExportError: the quantiser fails.
    """
    quantizer = import_extra("ai_edge_quantizer.quantizer", "litert", "to_tflite")
    recipe = import_extra("ai_edge_quantizer.recipe", "litert", "to_tflite")
    try:
        with silence():
            rules = recipe.static_wi8_ai8()
            rules += [{**rules[0], "operation": kind, "algorithm_key": "no_quantize"} for kind in IN_FLOAT]
            work = quantizer.Quantizer(bytearray(content), rules)
            result = work.quantize(dict(ranges), enable_progress_bar=False, enable_progress_report=False)
            return bytes(result.quantized_model)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"ai-edge-quantizer cannot quantise the network, so nothing was written: {error}") from error


def litert_invoke(content: bytes) -> Invoke:
    """Runs a file in LiteRT, one sample at a time.

    Raises:
        ExportError: LiteRT refuses the file.
    """
    litert = import_extra("ai_edge_litert.interpreter", "litert", "to_tflite")
    try:
        with silence():
            interpreter = litert.Interpreter(model_content=content, num_threads=torch.get_num_threads())
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"LiteRT cannot load the file, so nothing was written: {error}") from error
    inputs = [entry["index"] for entry in interpreter.get_input_details()]
    outputs = [entry["index"] for entry in interpreter.get_output_details()]

    def invoke(arrays: Sequence[Array]) -> list[Array]:
        for index, array in zip(inputs, arrays, strict=True):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return invoke


@contextlib.contextmanager
def silence() -> Iterator[list[str]]:
    """Nothing on the terminal from the C++ and Python parts of the runtimes; the list holds what they would have said."""
    said: list[str] = []
    level = logging.root.manager.disable
    progress = os.environ.get(PROGRESS)
    os.environ[PROGRESS] = "n"
    sys.stdout.flush()  # what was written before must not land in the file
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        saved = os.dup(1), os.dup(2)
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield said
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(None).fflush(None)  # the buffers of C
            for number, descriptor in zip((1, 2), saved):
                os.dup2(descriptor, number)
                os.close(descriptor)
            logging.disable(level)
            if progress is None:
                del os.environ[PROGRESS]
            else:
                os.environ[PROGRESS] = progress
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
