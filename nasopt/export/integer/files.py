"""Files of integer programs: one `.npz` of plain arrays, described by JSON that lies in it as bytes; no pickle."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from nasopt.errors import ConfigError
from nasopt.export.file import writable, write_checked
from nasopt.export.integer.arithmetic import Array
from nasopt.export.integer.kernels import KERNELS
from nasopt.export.integer.parts import Input, Output, Step, Value
from nasopt.export.integer.running import Program

FORMAT, VERSION = "nasopt integer program", 1


def save_program(program: Program, path: str | os.PathLike[str]) -> Path:
    """Write a program; the file gets its name once it loads as the same one.

    Raises:
        ConfigError: `path` cannot be written.
        ExportError: the disk is full, say.
    """
    destination = writable(path)
    text, arrays = described(program)
    buffer = io.BytesIO()
    head = np.frombuffer(json.dumps(text, allow_nan=False).encode(), np.uint8)
    np.savez_compressed(buffer, program=head, **arrays)  # type: ignore[arg-type]

    def check(draft: Path) -> None:
        again, same = described(SimpleNamespace(**load_fields(draft)))
        assert again == text
        assert all(np.array_equal(arrays[name], same[name]) for name in arrays)

    write_checked(destination, buffer.getvalue(), check)
    return destination


def load_fields(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the fields of what `save_program` wrote; nothing in the file is run.

    Raises:
        ConfigError: there is no such file, it is none of ours, of another version, or damaged.
    """
    try:
        with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        text = json.loads(arrays.pop("program").tobytes())
        if text["format"] != FORMAT or text["version"] != VERSION:
            raise ConfigError(f"{path}: {text['format']!r}, version {text['version']!r}: wanted {FORMAT!r}, {VERSION}")
        return _fields(text, arrays)
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is no integer program, or damaged ({error}): save it again") from error


def described(program: Any) -> tuple[dict[str, Any], dict[str, Array]]:
    """Plain values, and arrays by the names under which these mention them."""
    arrays: dict[str, Array] = {}

    def stored(name: str, array: Any) -> str:
        arrays[name] = np.asarray(array)
        return name

    text = {
        "format": FORMAT,
        "version": VERSION,
        "arguments": list(program.arguments),
        "left_out": list(program.left_out),
        "inputs": [[one.name, one.position, one.value] for one in program.inputs],
        "values": {
            name: [list(value.shape), value.bits, value.low, value.high, value.step]
            for name, value in program.values_by_name.items()
        },
        "steps": [
            {
                "kind": step.kind,
                "inputs": list(step.inputs),
                "output": step.output,
                "layer": step.layer,
                "settings": dict(step.settings),
                "arrays": {name: stored(f"step{i}.{name}", array) for name, array in step.arrays.items()},
            }
            for i, step in enumerate(program.steps)
        ],
        "outputs": [
            {
                "terms": [[name, stored(f"output{i}.scale{j}", scale)] for j, (name, scale) in enumerate(output.terms)],
                "shape": list(output.shape),
                "low": output.low if np.isfinite(output.low) else None,
                "high": output.high if np.isfinite(output.high) else None,
                "table": None if output.table is None else stored(f"output{i}.table", output.table),
                "first": output.first,
                "batch_dim": output.batch_dim,
            }
            for i, output in enumerate(program.outputs)
        ],
        "structure": _listed(program.structure),
    }
    return text, arrays


def _listed(structure: Any) -> Any:
    if isinstance(structure, Mapping):
        return {key: _listed(one) for key, one in structure.items()}
    return [_listed(one) for one in structure] if isinstance(structure, (list, tuple)) else structure


def _fields(text: Mapping[str, Any], arrays: Mapping[str, Array]) -> dict[str, Any]:
    values = {
        name: Value(tuple(shape), bits, low, high, step)
        for name, (shape, bits, low, high, step) in text["values"].items()
    }
    steps = tuple(
        Step(
            one["kind"],
            tuple(one["inputs"]),
            one["output"],
            one["settings"],
            {name: arrays[key] for name, key in one["arrays"].items()},
            one["layer"],
        )
        for one in text["steps"]
    )
    inputs = tuple(Input(*one) for one in text["inputs"])
    known = {one.value for one in inputs}
    for step in steps:
        if step.kind not in KERNELS or not known.issuperset(step.inputs) or step.output not in values:
            raise ConfigError(f"step {step.output!r} ({step.kind}) reads what no step before it writes")
        known.add(step.output)
    outputs = tuple(
        Output(
            tuple((name, arrays[key]) for name, key in one["terms"]),
            tuple(one["shape"]),
            -float("inf") if one["low"] is None else one["low"],
            float("inf") if one["high"] is None else one["high"],
            None if one["table"] is None else arrays[one["table"]],
            one["first"],
            one["batch_dim"],
        )
        for one in text["outputs"]
    )
    if not all(name in known for output in outputs for name, _ in output.terms):
        raise ConfigError("an output is written by no step")
    return {
        "inputs": inputs,
        "values_by_name": values,
        "steps": steps,
        "outputs": outputs,
        "structure": text["structure"],
        "arguments": tuple(text["arguments"]),
        "left_out": tuple(text["left_out"]),
    }
