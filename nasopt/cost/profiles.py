"""Reading what profilers print: operations of one network with their times, as a target with error bars.

Understood are, by what they look like:

    TFLite Micro, MicroProfiler::Log       CONV_2D took 133245 ticks (133 ms).
    tables of values with commas           a header with an operator and a time: TFLite Micro's LogCsv, MLTK, Vela
    ST Edge AI, validate on the target     c_id  m_id  type  dur (ms)  %  name
    esp-dl, and other tables with bars     | name | type | latency |
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from nasopt.cost.calibration import LAYER_LIMIT, LAYER_NOISE, fit_checked, make_target, ratios_of, units_of_rows
from nasopt.cost.latency import rows_of
from nasopt.cost.network import network_calls
from nasopt.cost.targets.registry import get_target
from nasopt.cost.targets.target import Target
from nasopt.errors import ConfigError
from nasopt.graph.layer_shape import facts_of

_TOOK = re.compile(r"^\s*(\w+) took (\d+) ticks", re.MULTILINE)
_NODE = re.compile(r"^\s*\d+\s+\d+\s+(?:\d+\s+)?([A-Za-z]\w*).*?\s(\d+\.\d+)\s+\d+\.\d+\s*%", re.MULTILINE)
_OPERATOR = ("op", "opcode", "tag", "type", "operator", "nng_op", "nng operator", "tflite_operator", "name")
_UNIT_OF = {
    "ticks": "ticks",
    "cycles": "ticks",
    "cpu_cycles": "ticks",
    "op_cycles": "ticks",
    "op cycles": "ticks",
    "time_s": "s",
    "time_ms": "ms",
    "time_us": "us",
    "time (ms)": "ms",
    "dur (ms)": "ms",
    "ms": "ms",
    "us": "us",
    "latency": "",
    "time": "",
}
"""Column of a time, in the order in which they are preferred -> its unit; an empty one stands beside the number."""

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


@dataclass(frozen=True)
class Operation:
    """One operation of a profile.

    Attributes:
        name: as the tool calls it.
        value: what it took.
        unit: `"ticks"`, `"s"`, `"ms"` or `"us"`.
    """

    name: str
    value: float
    unit: str

    def cycles(self, clock_mhz: float, tick_mhz: float) -> float:
        """Cycles of the chip's clock."""
        if self.unit == "ticks":
            return self.value * clock_mhz / tick_mhz
        return self.value * _SECONDS[self.unit] * clock_mhz * 1e6

    @property
    def multiplies(self) -> bool:
        """Whether it is a convolution or a linear layer, by its name."""
        name = self.name.lower().replace("_", "")
        return any(word in name for word in ("conv", "fullyconnected", "dense", "gemm", "linear", "innerproduct"))


def read_profile(profile: str | Path) -> list[Operation]:
    """Operations of a profile in the order in which they ran, from a file or from the text itself.

    Raises:
        ConfigError: the file cannot be read, or holds no table that is understood.
    """
    text = str(profile)
    if isinstance(profile, Path) or "\n" not in text:
        try:
            text = Path(profile).read_text()
        except (OSError, ValueError) as error:
            raise ConfigError(f"profile {str(profile)!r} cannot be read: {error}") from error
    if found := [Operation(name, float(ticks), "ticks") for name, ticks in _TOOK.findall(text)]:
        return found
    if "dur (ms)" in text and (found := [Operation(name, float(ms), "ms") for name, ms in _NODE.findall(text)]):
        return found
    bars = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines() if "|" in line]
    if found := _table(bars) or _table(list(csv.reader(text.splitlines()))):
        return found
    raise ConfigError(
        "the profile holds no table that is understood: give what TFLite Micro's MicroProfiler, MLTK, Vela, ST Edge AI or "
        "esp-dl print, or a CSV with columns for the operator and for ms, us, cycles or ticks"
    )


def _table(rows: Sequence[Sequence[str]]) -> list[Operation]:
    """Operations of the first table whose header names an operator and a time."""
    for start, row in enumerate(rows):
        header = [cell.strip().lower() for cell in row]
        operator = next((header.index(name) for name in _OPERATOR if name in header), None)
        time = next((name for name in _UNIT_OF if name in header), None)
        if operator is None or time is None or len(header) < 2:
            continue
        found = []
        for line in rows[start + 1 :]:
            match = (
                re.fullmatch(r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*(s|ms|us)?", line[header.index(time)].strip())
                if len(line) >= len(header)
                else None
            )
            unit = match and (_UNIT_OF[time] or match[2])
            if match and unit:
                found.append(Operation(line[operator].strip(), float(match[1]), unit))
        if found:
            return found
    return []


def target_from_profile(
    model: nn.Module,
    input_shape: Sequence[Any],
    profile: str | Path,
    clock_mhz: float,
    like: str | Target = "cortex_m4",
    name: str = "my_board",
    tick_mhz: float | None = None,
    **fields: Any,
) -> Target:
    """A target from the profile of one network, layer by layer: `target_from_table` without writing the table.

    Args:
        model, input_shape: the network that was profiled, and the shape of one sample.
        profile: what the tool printed, as a file or as text.
        clock_mhz: of the chip [MHz].
        like: as in `target_from_timings`.
        name: of the new target.
        tick_mhz: of the profiler's ticks [MHz]; the chip's clock if left out.
        fields: `ram_bytes`, `flash_bytes`, `active_power_mw` of `Target`.

    Raises:
        ConfigError: a profile that is not understood, or whose convolutions and linear layers are not those of the model.
    """
    base = get_target(like)
    clock_mhz = get_target(base, clock_mhz=clock_mhz).clock_mhz
    calls = [call for call in network_calls(model, input_shape).calls if facts_of(call.shape.kind).multiplies]
    timed = [operation for operation in read_profile(profile) if operation.multiplies]
    if len(timed) != len(calls):
        raise ConfigError(
            f"the profile has {len(timed)} convolutions and linear layers ({_few([o.name for o in timed])}), and the model has "
            f"{len(calls)} ({_few([c.layer for c in calls])}): give the network that was profiled; where the tool fuses layers, "
            f"use target_from_timings with the sum"
        )
    cycles = np.asarray([operation.cycles(clock_mhz, tick_mhz or clock_mhz) for operation in timed])
    if not (cycles > 0).all():
        at = int(np.argmin(cycles))
        raise ConfigError(
            f"{timed[at].name} ({calls[at].layer}) takes {timed[at].value:g} {timed[at].unit}: too coarse a clock"
        )
    labels = [f"{operation.name} ({call.layer})" for operation, call in zip(timed, calls)]
    units = units_of_rows(rows_of([call.shape for call in calls]))
    posterior = fit_checked(units, cycles, ratios_of(base), labels, LAYER_NOISE, LAYER_LIMIT)
    summary = f"profile of {len(calls)} layers, from the ratios of {base.name}"
    source = f"profile, maximum a posteriori from the prices of {base.name}"
    return make_target(posterior, name=name, summary=summary, clock_mhz=clock_mhz, provenance=source, **fields)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (" ..." if len(names) > 4 else "")
