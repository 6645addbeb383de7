"""Arenas that TensorFlow Lite Micro really uses for files of `to_tflite`, beside the predicted ones:

    python -m benchmarks.targets.tflm_arenas [NETWORK ...]      # needs pip install "nasopt[litert]" and torchvision

writes every network (or those named) of `tflm_networks`, `device_networks`, `found_networks` and `board_networks` as a
full-integer int8 file, runs it in the interpreter with reference kernels, and keeps `tflm_arenas.csv`: operations, tensors,
bytes for scales of channels, ports, planned tensors, persistent bytes, smallest arena and size of the file. Neither
`--compare`, which prints predictions beside these rows, nor `--fit`, which prints the bytes of every kind of operation that
fit them, needs any of the packages.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import device_networks
from benchmarks.targets import board_networks, found_networks, tflm_networks
from nasopt.cost import NetworkCalls, network_calls
from nasopt.cost.placement import plans
from nasopt.cost.runtime import TFLM
from nasopt.errors import ExportError
from nasopt.export import to_tflite
from nasopt.export.tflite_model import TfliteModel

TABLE = Path(__file__).with_name("tflm_arenas.csv")
COLUMNS = ("network", "kinds", "tensors", "channels", "ports", "planned", "persistent", "needed", "file")
NETWORKS = {**tflm_networks.NETWORKS, **device_networks.NETWORKS, **found_networks.NETWORKS, **board_networks.NETWORKS}


def example(name: str, samples: int) -> Any:
    """Noise as the network takes it."""
    shape = NETWORKS[name][1]
    if isinstance(shape[0], tuple):
        return tuple(torch.randn(samples, *each) for each in shape)
    return torch.randn(samples, *shape)


def network_of(name: str) -> torch.nn.Module:
    """The network, with norms as a training leaves them; the same at every call."""
    torch.manual_seed(0)
    network = NETWORKS[name][0]()
    found_networks.settle(network)
    return network


def calls_of(name: str) -> NetworkCalls:
    """What the cost side knows of a network."""
    return network_calls(network_of(name).eval(), input_example=example(name, 1))


def measure(name: str, folder: Path) -> dict[str, str]:
    """One row of the table.

    Raises:
        ExportError: TFLM lacks an operation.
    """
    network, given = network_of(name), example(name, 8)
    names = ("x_0", "x_1") if name.startswith("pit ") else ("sound", "motion")
    batch = dict(zip(names, given)) if isinstance(given, tuple) else given
    device = to_tflite(network, folder / "network.tflite", [batch], tolerance=9.0).device
    assert device is not None
    assert device.arena is not None
    arena, model = device.arena, TfliteModel((folder / "network.tflite").read_bytes())
    kinds = " ".join(f"{kind}:{count}" for kind, count in sorted(device.operations.items()))
    ports = len(model.graph.inputs) + len(model.graph.outputs)
    size = (folder / "network.tflite").stat().st_size
    figures = (
        kinds,
        len(model.graph.tensors),
        _channels(model),
        ports,
        arena.planned,
        arena.whole - arena.planned,
        arena.needed,
    )
    return dict(zip(COLUMNS, (name, *map(str, figures), str(size))))


def _channels(model: TfliteModel) -> int:
    """Bytes for the scales of output channels: two arrays of words per layer, each in whole lines of 16 B."""
    found = 0
    for operator in model.graph.operators:
        kind, tensors = model.kind(operator), model.graph.tensors
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"):
            found += -(-4 * tensors[operator.outputs[0]].shape[-1] // 16) * 32
        elif kind == "FULLY_CONNECTED" and model.data.buffers[tensors[operator.inputs[1]].buffer].data is not None:
            found += -(-4 * tensors[operator.inputs[1]].shape[0] // 16) * 32
    return found


def rows() -> dict[str, dict[str, str]]:
    """The table by network."""
    if not TABLE.exists():
        return {}
    with TABLE.open(newline="") as file:
        return {row["network"]: row for row in csv.DictReader(file)}


def compare() -> str:
    """Predicted and measured arenas as a Markdown table, and how far off they are."""
    lines = [
        "| network | planned | predicted | arena | predicted | off |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    off = []
    for name, row in rows().items():
        memory = calls_of(name).materialised
        sizes = {one: buffer.bytes(narrow=False) for one, buffer in memory.buffers.items()}
        planned = TFLM.tower(sizes, plans(memory))[1]
        arena, needed = TFLM.memory_bytes(memory), int(row["needed"])
        off.append(100 * (arena / needed - 1))
        cells = (int(row["planned"]), planned, needed, arena)
        lines.append(f"| {name} | {' | '.join(f'{cell:,}' for cell in cells)} | {off[-1]:+.1f} % |")
    return "\n".join(
        [
            *lines,
            f"{len(off)} networks: {min(off):+.2f} to {max(off):+.2f} %, mean of the sizes {np.abs(off).mean():.2f} %",
        ]
    )


def fit() -> str:
    """Bytes that the engine keeps per operation, by kind: least squares, drawn a little towards a typical operation."""
    counts = [
        Counter({k: int(n) for k, n in (part.split(":") for part in row["kinds"].split())}) for row in rows().values()
    ]
    kinds = sorted({kind for count in counts for kind in count})
    left = [
        int(row["persistent"])
        - TFLM.tensor_bytes * int(row["tensors"])
        - TFLM.port_bytes * int(row["ports"])
        - int(row["channels"])
        for row in rows().values()
    ]
    table = np.asarray([[count[kind] for kind in kinds] + [1] for count in counts], dtype=float)
    weight = 1 / np.sqrt(np.maximum(table[:, :-1].sum(1), 5))
    start = np.asarray([110.0] * len(kinds) + [530.0])
    pull = 0.02 * np.eye(len(start))
    right = np.concatenate([(np.asarray(left) - table @ start) * weight, np.zeros(len(start))])
    found = start + np.linalg.lstsq(np.concatenate([table * weight[:, None], pull]), right, rcond=None)[0]
    off = table @ found - np.asarray(left)
    return "\n".join(
        [
            *(
                f'    "{kind}": {value:.0f},  # {table[:, i].sum():.0f} seen'
                for i, (kind, value) in enumerate(zip(kinds, found))
            ),
            f"base {found[-1]:.0f}; persistent bytes off by {off.min():+.0f} to {off.max():+.0f} B",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, compare or fit."""
    parser = argparse.ArgumentParser(description="Arenas of TensorFlow Lite Micro, measured.")
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--compare", action="store_true", help="print predictions beside the table instead")
    parser.add_argument("--fit", action="store_true", help="fit the bytes of operations to the table instead")
    options = parser.parse_args(arguments)
    if options.fit or options.compare:
        print(fit() if options.fit else compare())
        return
    known = rows()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            try:
                known[name] = measure(name, Path(folder))
                print(known[name], flush=True)
            except ExportError as error:
                print(f"{name}: {error}", flush=True)
            with TABLE.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(known[name] for name in NETWORKS if name in known)


if __name__ == "__main__":
    main()
