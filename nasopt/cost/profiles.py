"""Reading what profilers print: operations of one network with their times, as a target with error bars.

Understood are, by what they look like:

    TFLite Micro, MicroProfiler::Log       CONV_2D took 133245 ticks (133 ms).
    tables of values with commas           a header with an operator and a time: TFLite Micro's LogCsv, MLTK, Vela
    ST Edge AI, validate on the target     c_id  m_id  type  dur (ms)  %  name
    esp-dl, and other tables with bars     | name | type | latency |
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from torch import nn

from nasopt.arguments import check_number
from nasopt.checked import checked
from nasopt.cost.calibration import LAYER_LIMIT, LAYER_NOISE, fit_checked, make_target, ratios_of, units_of_rows
from nasopt.cost.latency import rows_of
from nasopt.cost.network import calls_on_board
from nasopt.cost.read_table import SECONDS, Lines, column, number, plain, read_text, split, unit_of
from nasopt.cost.targets.registry import get_target
from nasopt.cost.targets.target import Target
from nasopt.errors import ConfigError
from nasopt.graph.layer_shape import facts_of

_TOOK = re.compile(r"(?:^|\s)(\w+) took ([\d,']+) ticks", re.MULTILINE)  # loggers put a time and a level in front
_NODE = re.compile(r"^\s*\d+\s+(?:\d+|-)\s+(?:\d+\s+)?([A-Za-z]\w*).*?\s(\d+[.,]\d+)\s+\d+[.,]\d+\s*%", re.MULTILINE)
_OPERATORS = (
    "op",
    "opcode",
    "tag",
    "type",
    "operator",
    "nng_op",
    "nng operator",
    "tflite_operator",
    "layer type",
    "name",
)
_TIMES = ("ticks", "cycles", "s", "ms", "us", "ns")
"""Units in the order in which columns are preferred: a count is exact, and a time is of all that worked on the layer."""
_PARTS = ("cpu cycles", "op cycles", "npu cycles", "acc cycles", "accelerator cycles")
"""Columns of cycles that may leave out another unit's share: where there is nothing else."""


@dataclass(frozen=True)
class Operation:
    """One operation of a profile.

    Attributes:
        name: as the tool calls it.
        value: what it took.
        unit: `"ticks"`, `"s"`, `"ms"`, `"us"` or `"ns"`.
    """

    name: str
    value: float
    unit: str

    def cycles(self, clock_mhz: float, tick_mhz: float) -> float:
        """Cycles of the chip's clock."""
        if self.unit == "ticks":
            return self.value * clock_mhz / tick_mhz
        return self.value * SECONDS[self.unit] * clock_mhz * 1e6

    @property
    def multiplies(self) -> bool:
        """Whether it is a convolution or a linear layer, by its name."""
        name = self.name.lower().replace("_", "")
        return any(word in name for word in ("conv", "fullyconnected", "dense", "gemm", "linear", "innerproduct"))


@checked
def read_profile(profile: str | Path) -> list[Operation]:
    """Operations of a profile in the order in which they ran, from a file or from the text itself.

    Raises:
        ConfigError: the file cannot be read, or holds no table that is understood.
    """
    text = str(profile)
    is_path = isinstance(profile, Path) or "\n" not in text
    text = read_text(profile, "profile") if is_path else plain(text)
    if found := [Operation(name, number(ticks), "ticks") for name, ticks in _TOOK.findall(text)]:
        return found
    if "dur (ms)" in text and (found := [Operation(n, number(ms, "," in ms), "ms") for n, ms in _NODE.findall(text)]):
        return found
    if found := _table(*split(text)):
        return found
    raise ConfigError(
        "the profile holds no table that is understood: give what TFLite Micro's MicroProfiler, MLTK, Vela, ST Edge AI or "
        "esp-dl print, or a CSV with columns for the operator and for ms, us, cycles or ticks; sums by kind of operator are no "
        "profile of layers"
    )


def _table(lines: Lines, decimal_comma: bool) -> list[Operation]:
    """Operations of the first table whose header names an operator and a time."""
    for start, (_, heads) in enumerate(lines):
        operator, time = column(heads, _OPERATORS), _time_of(heads)
        if operator is None or time is None or len(heads) < 2:
            continue
        found = []
        for _, line in lines[start + 1 :]:
            # A time without a unit in its head has it beside every number.
            match = (
                re.fullmatch(r"([\d.,']+(?:[eE][+-]?\d+)?)\s*(s|ms|us|ns)?", line[time]) if len(line) > time else None
            )
            unit = match and (unit_of(heads[time]).replace("cycles", "ticks") or match[2])
            value = number(match[1], decimal_comma, unit == "ticks") if match and unit else math.nan
            if len(line) > operator and unit and not math.isnan(value):
                found.append(Operation(line[operator], value, unit))
        if found:
            return found
    return []


def _time_of(heads: Sequence[str]) -> int | None:
    part = column(heads, _PARTS)
    for unit in _TIMES:
        whole = [i for i, head in enumerate(heads) if unit_of(head) == unit and column([head], _PARTS) is None]
        if whole:
            return whole[0]
    return part if part is not None else column(heads, ("latency", "time", "duration"))


@checked
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
        profile: what the tool printed, as a file or as text; of several inferences the medians count.
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
    if tick_mhz is not None:
        check_number("target_from_profile: tick_mhz", tick_mhz, above=0)
    network = calls_on_board(model, input_shape, "the profile")
    calls = [call for call in network.calls if facts_of(call.shape.kind).multiplies]
    timed = _one_inference([operation for operation in read_profile(profile) if operation.multiplies], len(calls))
    if len(timed) != len(calls):
        raise ConfigError(
            f"the profile has {len(timed)} convolutions and linear layers ({_few([o.name for o in timed])}), and the model has "
            f"{len(calls)} ({_few([c.layer for c in calls])}): give the network that was profiled; where the tool fuses layers, "
            f"use target_from_timings with the sum"
        )
    if not calls:
        raise ConfigError(
            "target_from_profile: the model has neither convolutions nor linear layers: there is nothing to fit"
        )
    cycles = np.asarray([operation.cycles(clock_mhz, tick_mhz or clock_mhz) for operation in timed])
    if not (cycles > 0).all():
        at = int(np.argmin(cycles))
        raise ConfigError(
            f"{timed[at].name} ({calls[at].layer}) takes {timed[at].value:g} {timed[at].unit}: too coarse a clock"
        )
    labels = [f"{operation.name} ({call.layer})" for operation, call in zip(timed, calls)]
    units = units_of_rows(rows_of([call.shape for call in calls]))
    posterior = fit_checked(units, cycles, labels, ratios_of(base), LAYER_NOISE, LAYER_LIMIT)
    summary = f"profile of {len(calls)} layers, from the ratios of {base.name}"
    source = f"profile, maximum a posteriori from the prices of {base.name}"
    return make_target(posterior, name=name, summary=summary, clock_mhz=clock_mhz, provenance=source, **fields)


def _one_inference(timed: list[Operation], layers: int) -> list[Operation]:
    """Medians over the inferences, where a log holds several of a network with so many layers."""
    runs = [timed[i : i + layers] for i in range(0, len(timed), max(layers, 1))]
    names = [[operation.name for operation in run] for run in runs]
    if len(runs) < 2 or any(name != names[0] for name in names):
        return timed
    return [replace(same[0], value=median(operation.value for operation in same)) for same in zip(*runs)]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (" ..." if len(names) > 4 else "")
