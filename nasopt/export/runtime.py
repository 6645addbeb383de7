"""Sessions of ONNX Runtime on the CPU, with integer arithmetic that is exact."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nasopt.checked import checked
from nasopt.errors import ExportError
from nasopt.export.compare import Runner
from nasopt.extras import import_extra


@checked
def open_session(path: str | os.PathLike[str], exact: bool = True) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, with as many threads as torch has.

    The fast int8 kernels of x86 processors without VNNI add products in 16 bits and saturate: their outputs can be far from
    those of a microcontroller, which adds in 32 bits. `exact=True` avoids these kernels.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        ExportError: ONNX Runtime refuses the file; names the operation that it lacks.
    """
    ort = import_extra("onnxruntime", "onnx", "open_session")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1" if exact else "0")
    try:
        return ort.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a type of its own for every status, without a common base
        raise ExportError(f"ONNX Runtime cannot load the file, so nothing was written: {error}") from error


def session_runner(path: Path, exact: bool = True) -> Runner:
    """Runs a file on tensors."""
    session = open_session(path, exact)
    names = [entry.name for entry in session.get_inputs()]

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        feed = {name: tensor.contiguous().numpy() for name, tensor in zip(names, tensors, strict=True)}
        try:
            return [torch.as_tensor(array) for array in session.run(None, feed)]
        except Exception as error:  # as above
            raise ExportError(f"ONNX Runtime cannot run the file: {error}") from error

    return run
