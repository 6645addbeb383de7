"""The command `nasopt export`: a model, or what a search has found in it, as a file for a runtime."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.cli.models import input_shape, load_model, load_target
from nasopt.errors import ConfigError
from nasopt.methods.restore import restore

_BATCH = 64


def add_export(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("model", help="file.py:name of a function that builds the seed, or the model as it is")
    parser.add_argument("--input", action="append", default=[], metavar="3,32,32", help="shape of one sample; repeat")
    parser.add_argument("--structure", type=Path, help="JSON of arch_structure(): what was found in the seed")
    parser.add_argument("--weights", type=Path, help="state_dict of the found network, from torch.save")
    parser.add_argument(
        "--calibration", type=Path, metavar="X.npy", help="real inputs (samples, ...): the file is int8"
    )
    parser.add_argument("--target", action="append", default=[], help="an embedded target for the report; repeat")
    parser.add_argument(
        "--output", type=Path, required=True, help="file.onnx, file.tflite, file.pte (int8 alone), or file.pt2"
    )


def export(options: argparse.Namespace) -> str:
    """Write the file; returns the report.

    Raises:
        ConfigError: an argument cannot be used.
        ExportError: the network cannot be written in this format, or the file computes something else.
    """
    from nasopt import export as formats  # it takes a moment

    ways = {".onnx": "ONNX", ".tflite": "LiteRT", ".pte": "ExecuTorch", ".pt2": "torch.export"}
    suffix = options.output.suffix
    if suffix not in ways:
        known = ", ".join(f"{key} ({name})" for key, name in ways.items())
        raise ConfigError(f"--output {options.output}: the ending says which format: {known}")
    samples = None if options.calibration is None else _read_samples(options.calibration)
    network = _network(options)
    if samples is not None:
        example: Any = samples[:2]
    elif options.input:
        shapes = [input_shape(text) for text in options.input]
        tensors = tuple(torch.randn(2, *shape) for shape in shapes)
        example = tensors if len(tensors) > 1 else tensors[0]
    else:
        raise ConfigError("export: give --input (shape of one sample), or --calibration (a file of samples)")
    more: dict[str, Any] = {"targets": [load_target(name) for name in options.target]}
    if suffix == ".pt2":
        return str(formats.to_exported_program(network, example, options.output, **more))
    if suffix == ".tflite":
        batches = None if samples is None else _batches(samples)
        return str(formats.to_tflite(network, options.output, batches, example=example, **more))
    if samples is not None:
        write = formats.to_int8_onnx if suffix == ".onnx" else formats.to_executorch
        return str(write(network, options.output, _batches(samples), **more))
    if suffix == ".pte":
        raise ConfigError("export: an ExecuTorch program is int8: give real inputs as --calibration X.npy")
    return str(formats.to_onnx(network, options.output, example, **more))


def _network(options: argparse.Namespace) -> nn.Module:
    network = load_model(options.model)
    if options.structure is not None:
        try:
            structure = json.loads(options.structure.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"--structure {options.structure} cannot be read: {error}") from error
        network = restore(network, structure)
    if options.weights is not None:
        try:
            state = torch.load(options.weights, map_location="cpu", weights_only=True)
            network.load_state_dict(state)
        except (OSError, EOFError, RuntimeError, ValueError, TypeError, pickle.UnpicklingError) as error:
            is_other = isinstance(error, pickle.UnpicklingError)
            reason = "it is no file of tensors" if is_other else str(error).splitlines()[0]
            raise ConfigError(
                f"--weights {options.weights} do not fit, or cannot be read ({reason}): give the state_dict of the network"
                f"{'' if options.structure else '; of a found one, its --structure, too'}"
            ) from error
    return network.eval()


def _read_samples(path: os.PathLike[str]) -> Tensor:
    import numpy as np

    try:
        values = np.load(path, allow_pickle=False)
        samples = torch.as_tensor(values)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise ConfigError(f"--calibration {path} cannot be read ({error}): give one array, from numpy.save") from error
    if samples.dim() < 2 or len(samples) < 2:
        raise ConfigError(f"--calibration {path}: shape {tuple(samples.shape)}: give several samples, (samples, ...)")
    return samples.float() if samples.dtype == torch.float64 else samples


def _batches(samples: Tensor) -> Iterator[Tensor]:
    return iter(samples.split(_BATCH))
