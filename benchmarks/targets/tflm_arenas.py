"""Arenas that TensorFlow Lite Micro really uses for files of `to_tflite`, and the persistent bytes fitted to them:

    python -m benchmarks.targets.tflm_arenas [NETWORK ...]      # needs pip install "nasopt[litert]"

writes every network (or those named) of `tflm_networks` and `device_networks` as a full-integer int8 file, runs it in the
interpreter with reference kernels, and keeps `tflm_arenas.csv`: operations, planned tensors, persistent bytes, smallest arena and
size of the file. `--fit` prints the constants of `nasopt.cost.runtime.TFLM` that fit these rows, and needs none of the packages.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import device_networks
from benchmarks.targets import tflm_networks
from nasopt.cost import NetworkCalls, network_calls
from nasopt.cost.runtime import TFLM, _operations
from nasopt.errors import ExportError
from nasopt.export import to_tflite

TABLE = Path(__file__).with_name("tflm_arenas.csv")
COLUMNS = ("network", "operations", "planned", "persistent", "needed", "file")
NETWORKS = {**tflm_networks.NETWORKS, **device_networks.NETWORKS}


def example(name: str, samples: int) -> Any:
    """Noise as the network takes it."""
    shape = NETWORKS[name][1]
    if isinstance(shape[0], tuple):
        return tuple(torch.randn(samples, *each) for each in shape)
    return torch.randn(samples, *shape)


def calls_of(name: str) -> NetworkCalls:
    """What the cost side knows of a network."""
    return network_calls(NETWORKS[name][0](), input_example=example(name, 1))


def measure(name: str, folder: Path) -> dict[str, str]:
    """One row of the table.

    Raises:
        ExportError: TFLM lacks an operation.
    """
    torch.manual_seed(0)
    given = example(name, 8)
    batch = dict(zip(("sound", "motion"), given)) if isinstance(given, tuple) else given
    device = to_tflite(NETWORKS[name][0](), folder / "network.tflite", [batch], tolerance=9.0).device
    assert device is not None
    assert device.arena is not None
    arena = device.arena
    size = (folder / "network.tflite").stat().st_size
    count = sum(device.operations.values())
    figures = (count, arena.planned, arena.whole - arena.planned, arena.needed, size)
    return dict(zip(COLUMNS, (name, *map(str, figures))))


def fit() -> str:
    """Persistent bytes and file sizes by least squares in relative errors of the arena and of the file."""
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    counts, persistent, arena, described, files = [], [], [], [], []
    planning = []
    for row in rows:
        calls = calls_of(row["network"])
        memory = calls.materialised
        layers = TFLM.layers(calls.materialised)
        shapes = [step.term.layer_shape() for step in layers if step.term is not None]
        channels = sum(shape.out_channels for shape in shapes)
        weights = sum(s.in_channels * s.out_channels * s.taps // s.groups + 4 * s.bias * s.out_channels for s in shapes)
        ports = len(memory.inputs) + len(memory.outputs) - 2
        counts.append((1, _operations(memory), len(layers), channels, ports))
        if int(row["needed"]) > int(row["planned"]) + int(row["persistent"]):
            planning.append((int(row["needed"]) - int(row["persistent"])) / _operations(memory))
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
    middle = f"{np.median(planning):.0f}, of {min(planning):.0f} to {max(planning):.0f}"
    return "\n".join(
        [
            f"base, operation, layer, channel, port [B]: {bytes_.round(1).tolist()}",
            f"arenas off by {errors.min():+.2f} to {errors.max():+.2f} %",
            f"planning, per operation [B]: {middle}",
            f"file: base, layer, channel [B]: {file_.round(1).tolist()}, off by {off.min():+.1f} to {off.max():+.1f} %",
        ]
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
    rows = {}
    if TABLE.exists():
        with TABLE.open(newline="") as file:
            rows = {row["network"]: row for row in csv.DictReader(file)}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            try:
                rows[name] = measure(name, Path(folder))
            except ExportError as error:
                print(f"{name}: {error}")
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[name] for name in NETWORKS if name in rows)
    print(TABLE.read_text())


if __name__ == "__main__":
    main()
