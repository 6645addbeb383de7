"""Published and measured latencies: the files of `$NASOPT_DATA/latency` as rows and cycles."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasopt.cost.targets import KIND_CODES
from nasopt.errors import ConfigError

Rows = NDArray[np.int64]

NETWORKS = ("ic", "kws", "vww", "ad")
"""The four MLPerf Tiny networks with results on nearly every board."""


@dataclass(frozen=True)
class Published:
    """One submission of MLPerf Tiny: which rows of the results file belong to it."""

    round: str
    submitter: str
    system: str
    framework: str
    clock_mhz: float
    networks: tuple[str, ...] = NETWORKS

    def cycles(self) -> dict[str, float]:
        """Published latency of each network [cycles]."""
        return {row["model"]: float(row["latency_ms"]) * self.clock_mhz * 1e3 for row in self.rows()}

    def power(self) -> float:
        """Mean published power over the networks [mW]; 0 where none was published."""
        power = [float(row["power_mW"]) for row in self.rows() if row["power_mW"]]
        return sum(power) / len(power) if power else 0.0

    def rows(self) -> list[dict[str, str]]:
        """Its rows, one for each network.

        Raises:
            ConfigError: there are more or fewer.
        """
        found = [
            row
            for row in _table("mlperf_tiny_results.csv")
            if row["division"] == "closed"
            and row["round"] == self.round
            and row["submitter"].startswith(self.submitter)
            and row["system"] == self.system
            and row["framework"].startswith(self.framework)
            and row["model"] in self.networks
        ]
        if sorted(row["model"] for row in found) != sorted(self.networks):
            raise ConfigError(
                f"{self}: results hold {[row['model'] for row in found]}, not one row for each of {self.networks}"
            )
        return found


OLDER_STACK = {
    "cortex_m4": Published("v0.7", "STMicroelectronics", "NUCLEO_L4R5ZI", "X-CUBE-AI v7.1.0", 120),
    "cortex_m7": Published("v0.7", "STMicroelectronics", "NUCLEO-H7A3ZI-Q", "X-CUBE-AI v7.1.0", 280),
    "cortex_m33": Published("v0.7", "STMicroelectronics", "NUCLEO-U575ZI-Q", "X-CUBE-AI v7.1.0", 160),
}
GAP9 = Published("v1.0", "greenwaves", "gap9_800_370", "", 370)
EFR32 = Published("v1.0", "silicon_labs", "silicon_labs_xG24_DK2601B", "", 78)


@dataclass(frozen=True)
class Layer:
    """One measured layer of the EFR32: its class in the law, its row, cycles of the accelerator and of the clock."""

    kind: str
    row: tuple[int, ...]
    engine_cycles: float
    time_cycles: float
    source: str


def data_file(name: str) -> Path:
    """A file of `$NASOPT_DATA/latency`.

    Raises:
        ConfigError: NASOPT_DATA is not set, or the file is not there.
    """
    folder = os.environ.get("NASOPT_DATA")
    if not folder:
        raise ConfigError("NASOPT_DATA is not set, so there are no measurements: set it to the folder with latency/")
    path = Path(folder) / "latency" / name
    if not path.is_file():
        raise ConfigError(f"{name} is not in $NASOPT_DATA/latency: set NASOPT_DATA to the folder with latency/{name}")
    return path


@cache
def _table(name: str) -> list[dict[str, str]]:
    with data_file(name).open(newline="") as file:
        return list(csv.DictReader(file))


def _sizes(text: str) -> list[int]:
    return [int(part) for part in text.split("x")]


def network_rows(model: str, kinds: frozenset[str] = frozenset(KIND_CODES)) -> Rows:
    """Rows of a reference network (ic, ic2, kws, vww, ad, sww, or a model key), shape `(l, 12)`, of the given kinds."""
    names = {code: kind for kind, code in KIND_CODES.items()}
    rows = [row for row in _network_layers(model) if names[row[0]] in kinds]
    return np.asarray(rows, dtype=np.int64)


def _network_layers(model: str) -> Iterator[tuple[int, ...]]:
    columns = ("in", "out", "k0", "k1", "h", "w", "s0", "s1", "groups")
    for layer in _table("model_layers.csv"):
        if layer["model_key"] == model:
            yield (KIND_CODES[layer["kind"]], *(int(layer[column]) for column in columns), 8, 8)
    for layer in _table("mlperf_tiny_layers.csv"):
        if layer["model"] == model and layer["op"] not in ("RESHAPE", "SOFTMAX"):
            yield _reference_row(layer)


def _reference_row(layer: dict[str, str]) -> tuple[int, ...]:
    out = _sizes(layer["output"])
    if layer["op"] == "FULLY_CONNECTED":
        outputs, inputs = _sizes(layer["weight"])
        return KIND_CODES["linear"], inputs, outputs, 1, 1, 1, 1, 1, 1, 1, 8, 8
    _, h, w, channels = out
    given = _sizes(layer["input"])
    if layer["op"] == "ADD":
        return KIND_CODES["add"], channels, channels, 1, 1, h, w, 1, 1, 1, 8, 8
    if layer["op"] == "AVERAGE_POOL_2D":
        return KIND_CODES["pool"], channels, channels, given[1] // h, given[2] // w, h, w, 1, 1, 1, 8, 8
    s0, s1 = _sizes(layer["stride"])
    _, k0, k1, inputs = _sizes(layer["weight"])
    if layer["op"] == "DEPTHWISE_CONV_2D":
        return KIND_CODES["depthwise"], given[3], channels, k0, k1, h, w, s0, s1, 1, 8, 8
    return KIND_CODES["conv"], inputs, channels, k0, k1, h, w, s0, s1, 1, 8, 8


def zoo_cycles(file: str, board: str, clock_mhz: float) -> dict[str, float]:
    """Network -> cycles, from a table of the STM32 model zoo; networks whose layers are not known are left out."""
    known = {row["model_key"] for row in _table("model_layers.csv")}
    found: dict[str, float] = {}
    for row in _table(file):
        if row["board"] == board and row["model_key"] in known:
            found.setdefault(row["model_key"], float(row["latency_ms"]) * clock_mhz * 1e3)
    return found


def efr32_layers() -> list[Layer]:
    """Layers measured on the EFR32xG24 with the accelerator, whose class the law knows."""
    layers = []
    for row in _table("mltk_per_layer.csv"):
        if row["run"] == "device" and row["accelerator"].upper() == "MVP" and row["acc_cycles"]:
            layer = _efr32_layer(row)
            if layer is not None and layer.engine_cycles > 0:
                layers.append(layer)
    return layers


def _efr32_layer(row: dict[str, str]) -> Layer | None:
    inputs = [_sizes(text) for text in row["input_shape"].split(",")]
    out = _sizes(row["output_shape"])
    numbers: dict[str, Any] = {
        name: [int(size) for size in sizes]
        for name, *sizes in re.findall(r"(stride|filter):(\d+)x(\d+)", row["options"].lower())
    }
    if row["op"] == "fully_connected":
        kind, code, fields = "linear", "linear", (inputs[1][1], inputs[1][0], 1, 1, 1, 1, 1, 1)
    elif row["op"] == "add":
        kind, code, fields = "add", "add", (out[-1], out[-1], 1, 1, prod(out) // out[-1], 1, 1, 1)
    elif row["op"] == "average_pool_2d":
        kind, code = "pool", "pool"
        fields = (out[3], out[3], *numbers["filter"], out[1], out[2], *numbers["stride"])
    elif row["op"] in ("conv_2d", "depthwise_conv_2d"):
        _, k0, k1, read = inputs[1]
        code = "conv" if row["op"] == "conv_2d" else "depthwise"
        kind = "depthwise" if code == "depthwise" else "pointwise" if k0 * k1 == 1 else "kxk"
        fields = (read if code == "conv" else inputs[0][3], out[3], k0, k1, out[1], out[2], *numbers["stride"])
    else:
        return None
    time = float(row["time_s"] or 0) * float(row["clock"])
    return Layer(kind, (KIND_CODES[code], *fields, 1, 8, 8), float(row["acc_cycles"]), time, row["source"])


_VELA_NAMES = {
    "ad01_int8": "ad",
    "kws_ref_model": "kws",
    "pretrainedResnet_large_int8": "ic2",
    "pretrainedResnet_quant": "ic",
    "str_ww_ref_model": "sww",
    "vww_96_int8": "vww",
}


def vela_layers(accelerator: str = "ethos-u55-128") -> list[tuple[str, tuple[int, ...], float]]:
    """Network, row and Vela's cycles of every operation that is not a softmax or a fused activation."""
    found = []
    for name, model in _VELA_NAMES.items():
        operations = [
            row
            for row in _table("vela_per_layer.csv")
            if row["accelerator"] == accelerator
            and row["model"] == name
            and row["orig_op"] != "Softmax"
            and row["nng_op"] != "Relu"
        ]
        for row, layer in zip(operations, _network_layers(model), strict=True):
            found.append((model, layer, float(row["op_cycles"])))
    return found
