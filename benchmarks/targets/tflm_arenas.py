"""Arenas that TensorFlow Lite Micro really uses, measured in its interpreter, and the persistent bytes fitted to them:

    python -m benchmarks.targets.tflm_arenas [NETWORK ...]      # needs litert-torch, ai-edge-quantizer, tflite-micro

converts every network of `tflm_networks` to a full-integer int8 file with channels last, runs it in the interpreter with
reference kernels, and writes `tflm_arenas.csv`: operations, planned tensors, persistent bytes, size of the file.
`--fit` prints the constants of `nasopt.cost.runtime.TFLM` that fit these rows, and needs none of the packages.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.targets.tflm_networks import NETWORKS
from nasopt.cost import network_calls
from nasopt.cost.runtime import TFLM

TABLE = Path(__file__).with_name("tflm_arenas.csv")
COLUMNS = ("network", "operations", "planned", "persistent", "file")


def convert(name: str, folder: Path) -> Path:
    """An int8 file of a network with random weights, calibrated on noise."""
    import litert_torch
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(1, *shape)
    if len(shape) == 3:
        model, x = litert_torch.to_channel_last_io(model, args=[0]), x.permute(0, 2, 3, 1).contiguous()
    plain, exact = folder / f"{name}.tflite", folder / f"{name}_int8.tflite"
    litert_torch.convert(model, (x,)).export(str(plain))
    signatures = Interpreter(str(plain)).get_signature_list()
    key = next(iter(signatures))
    given = signatures[key]["inputs"][0]
    tool = quantizer.Quantizer(str(plain), recipe.static_wi8_ai8())
    calibrated = tool.calibrate({key: [{given: torch.randn_like(x).numpy()} for _ in range(4)]})
    tool.quantize(calibrated).export_model(str(exact), overwrite=True)
    return exact


def measure(name: str, folder: Path) -> dict[str, str | int]:
    """One row of the table."""
    from tflite_micro.python.tflite_micro import runtime

    path = convert(name, folder)
    log, streams = folder / f"{name}.txt", [os.dup(1), os.dup(2)]
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(file, number)
    try:  # the interpreter prints from C
        interpreter = runtime.Interpreter.from_file(str(path), arena_size=4_000_000)
        interpreter.set_input(np.zeros(interpreter.get_input_details(0)["shape"], dtype=np.int8), 0)
        interpreter.invoke()
        interpreter.print_allocations()
    finally:
        for number, stream in zip((1, 2), streams):
            os.dup2(stream, number)
    text = log.read_text()
    numbers = {what: int(size) for what, size in re.findall(r"Arena allocation (head|tail) (\d+)", text)}
    (operations,) = re.findall(r"(\d+) NodeAndRegistration structs", text)
    sizes = (int(operations), numbers["head"], numbers["tail"], path.stat().st_size)
    return dict(zip(COLUMNS, (name, *sizes)))


def fit() -> str:
    """Persistent bytes and file sizes by least squares in relative errors of the arena and of the file."""
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    counts, persistent, arena, described, files = [], [], [], [], []
    for row in rows:
        build, shape = NETWORKS[row["network"]]
        calls = network_calls(build(), shape)
        layers = TFLM.layers(calls.materialised)
        shapes = [step.term.layer_shape() for step in layers if step.term is not None]
        channels = sum(shape.out_channels for shape in shapes)
        weights = sum(s.in_channels * s.out_channels * s.taps // s.groups + 4 * s.bias * s.out_channels for s in shapes)
        counts.append((1, int(row["operations"]), len(layers), channels))
        persistent.append(int(row["persistent"]))
        arena.append(int(row["planned"]) + int(row["persistent"]))
        described.append(int(row["file"]) - weights)
        files.append(int(row["file"]))
    table = np.asarray(counts, dtype=float)
    scale, large = np.asarray(arena, dtype=float), np.asarray(files, dtype=float)
    bytes_ = np.linalg.lstsq(table / scale[:, None], np.asarray(persistent) / scale, rcond=None)[0]
    columns = table[:, [0, 2, 3]]
    file_ = np.linalg.lstsq(columns / large[:, None], np.asarray(described) / large, rcond=None)[0]
    errors = 100 * (table @ bytes_ - persistent) / scale
    off = 100 * (columns @ file_ - described) / large
    return (
        f"base, operation, layer, channel [B]: {bytes_.round(1).tolist()}; arenas off by {errors.min():+.2f} to "
        f"{errors.max():+.2f} %\nfile: base, layer, channel [B]: {file_.round(1).tolist()}; files off by {off.min():+.1f} "
        f"to {off.max():+.1f} %"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or fit."""
    parser = argparse.ArgumentParser(description="Arenas of TensorFlow Lite Micro, measured.")
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--fit", action="store_true", help="fit the constants to the table instead")
    options = parser.parse_args(arguments)
    if options.fit:
        print(fit())
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(name, Path(folder)) for name in options.networks]
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(TABLE.read_text())


if __name__ == "__main__":
    main()
