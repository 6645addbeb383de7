"""Files of the networks whose timings say most about a board: to flash and time, for `target_from_timings`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nasopt.checked import checked
from nasopt.cost import Target, suggest_calibration_models
from nasopt.errors import ConfigError, ExportError
from nasopt.export.litert import require_litert
from nasopt.export.tflite import to_tflite
from nasopt.graph.example import make_example

_SAMPLES = 8  # that set the ranges
_ANY_ERROR = 1e9  # what the file computes does not matter


@checked
def write_calibration_models(
    candidates: Mapping[str, tuple[nn.Module, Sequence[Any]]],
    folder: str | os.PathLike[str],
    k: int = 4,
    like: str | Target = "cortex_m4",
) -> dict[str, Path]:
    """Write the int8 `.tflite` files of the networks that `suggest_calibration_models` names, best first.

    Their ranges are those of random inputs, which changes what they compute and not how long it takes.

    ```python
    candidates = {"a": (net_a, (3, 32, 32)), "b": (net_b, (1, 49, 10))}
    files = write_calibration_models(candidates, "to_time", k=1)
    board = target_from_timings([(*candidates[name], ms) for name, ms in timed.items()])  # once they are timed
    ```

    Args:
        candidates: name -> (model, shape of one sample).
        folder: made where it is missing; files are named after the candidates.
        k: how many to write.
        like: as in `target_from_timings`.

    Returns:
        Name -> file.

    Raises:
        MissingExtraError: the extra `litert` is not installed.
        ConfigError: as `suggest_calibration_models`; a name is no name of a file, or the folder cannot be written.
        ExportError: a network has no int8 file, with its name; the files of those before it are there.
    """
    require_litert("write_calibration_models")
    if odd := [name for name in candidates if Path(name).name != name or "\0" in name]:
        raise ConfigError(f"write_calibration_models: {odd[0]!r} is no name of a file: give candidates plain names")
    found = {name: Path(folder, f"{name}.tflite") for name in suggest_calibration_models(candidates, k, like)}
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"write_calibration_models: {os.fspath(folder)!r} is no folder to write to: {error}"
        ) from error
    for name, path in found.items():
        model, shape = candidates[name]
        generator = torch.Generator().manual_seed(0)
        zeros = make_example(model, shape, None).inputs
        inputs = tuple(torch.randn((_SAMPLES, *x.shape[1:]), generator=generator).to(x) for x in zeros)
        batch = inputs[0] if len(inputs) == 1 else (inputs, None)
        try:
            to_tflite(model, path, [batch], tolerance=_ANY_ERROR)
        except ExportError as error:
            raise ExportError(f"write_calibration_models: candidate {name!r}: {error}") from error
    return found
