"""Targets from tables of measured layers, one layer a row: the fit of `calibration` on networks of one layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np

from nasopt.arguments import check_items
from nasopt.checked import checked_but
from nasopt.cost.calibration import LAYER_LIMIT, LAYER_NOISE, fit_checked, make_target, ratios_of, units_of_rows
from nasopt.cost.latency import exact_row
from nasopt.cost.read_table import SECONDS, column, is_count, number, read_text, split, unit_of
from nasopt.cost.targets.registry import get_target
from nasopt.cost.targets.target import Target
from nasopt.errors import ConfigError, nearest
from nasopt.graph.layer_shape import KINDS, LayerShape

_REQUIRED = ("kind", "in_channels", "out_channels")
_OPTIONAL = ("kernel", "output_size", "stride", "groups")
_NAMES = {"in_channels": ("in_channels", "cin", "in"), "out_channels": ("out_channels", "cout", "out")}
"""Other heads of a column that are known."""
_MOST = 10**9


@checked_but("table")
def target_from_table(
    table: str | Path | Iterable[Mapping[str, Any]],
    name: str,
    clock_mhz: float,
    ram_bytes: int = 0,
    flash_bytes: int = 0,
    active_power_mw: float = 0.0,
    like: str | Target = "cortex_m4",
) -> Target:
    """A target whose prices are fitted to measured layers, with error bars; measurements may be noisy.

    Args:
        table: a CSV file (commas, semicolons or tabs; decimal commas with the latter two), or its rows as mappings.
            Columns: `kind` (of `LayerShape`), `in_channels`, `out_channels`, and one whose head ends in a unit: `cycles`, `s`,
            `ms`, `us`, `ns`, as in `ms` or `time (us)`; optional `kernel` ("3x3", default 1), `output_size` ("32x32", default
            1; input size for `conv_transpose`), `stride` ("2x2", default 1), `groups` (default 1). Others are not looked at; a
            layer may have several rows.
        name: of the new target. It is not registered: pass it around, or call `register_target`.
        clock_mhz: turns times into cycles, and cycles into times [MHz].
        ram_bytes, flash_bytes, active_power_mw: as in `Target`.
        like: the shipped target whose price ratios fill in what the table does not say, such as kinds without rows.

    >>> rows = [dict(kind="linear", in_channels="64", out_channels=str(n), cycles=str(100 * n)) for n in (8, 64)]
    >>> target_from_table(rows, "mine", clock_mhz=80).status("conv")
    'priced'

    Raises:
        ConfigError: no rows; a row or a value is missing, not a number or negative; a row that no prices can explain. The
            message names the row.
    """
    base = get_target(like)
    clock_mhz = get_target(base, clock_mhz=clock_mhz).clock_mhz
    source, rows = _read(table)
    shapes, cycles, labels = [], [], []
    for line, row in rows:
        label = f"{source}, row {line}"
        shape, count = _measurement(label, row, clock_mhz)
        shapes.append(exact_row(shape))
        cycles.append(count)
        labels.append(f"{label} ({shape.kind})")
    if not shapes:
        raise ConfigError(f"{source}: no rows, so there is nothing to fit: give at least one measured layer")
    posterior = fit_checked(
        units_of_rows(np.asarray(shapes)),
        np.asarray(cycles),
        labels,
        ratios_of(base),
        noise=LAYER_NOISE,
        limit=LAYER_LIMIT,
    )
    return make_target(
        posterior,
        name=name,
        summary=f"{len(shapes)} measured layers, from the ratios of {base.name}",
        clock_mhz=clock_mhz,
        ram_bytes=ram_bytes,
        flash_bytes=flash_bytes,
        active_power_mw=active_power_mw,
        provenance=source,
    )


Row = Mapping[str, Any]


def _read(table: str | Path | Iterable[Mapping[str, Any]]) -> tuple[str, list[tuple[int, Row]]]:
    """Name of the source, and rows with the number a person would count (the header of a file is row 1)."""
    if not isinstance(table, str | Path):
        records = table.to_dict("records") if hasattr(table, "to_dict") else table  # a data frame
        rows = list(
            enumerate(check_items("table", records, object, "rows, a data frame, or the path of a file"), start=1)
        )
        for line, row in rows:
            if not isinstance(row, Mapping):
                raise ConfigError(f"table, row {line} is a {type(row).__name__}: give mappings of columns to values")
        return "table", rows
    source = Path(table).name
    lines, decimal_comma = split(read_text(table, "table"))
    if not lines:
        return source, []
    (_, heads), *rest = lines
    found: list[tuple[int, Row]] = []
    for line, cells in rest:
        if len(cells) > len(heads):
            raise ConfigError(
                f"{source}, row {line}: {len(cells)} values under {len(heads)} heads: quote what holds commas"
            )
        row = dict(zip(heads, cells))
        if decimal_comma:
            units = {head: unit_of(head) for head in row}
            row |= {
                head: str(number(row[head], True, is_count(units[head]))) for head in row if units[head] and row[head]
            }
        found.append((line, row))
    return source, found


def _columns(where: str, row: Row) -> dict[str, str]:
    """Value by our name of its column, as text, without empty ones; the measurement as `time`, its unit as `unit`."""
    heads = [str(head) for head in row]
    texts = ["" if value is None or value != value else str(value).strip() for value in row.values()]
    found = {}
    for name in (*_REQUIRED, *_OPTIONAL):
        at = column(heads, _NAMES.get(name, (name,)))
        if at is not None and texts[at]:
            found[name] = texts[at]
    for name in _REQUIRED:
        if name not in found:
            raise ConfigError(f"{where}: {name!r} is missing: a row needs {', '.join(_REQUIRED)}, and cycles, ms or us")
    units = {unit_of(head): text for head, text in zip(heads, texts) if text}
    unit = next((unit for unit in ("cycles", "ticks", *SECONDS) if unit in units), None)
    if unit is None:
        raise ConfigError(
            f"{where}: neither 'cycles' nor 'ms' nor 'us' is given: write the measurement, or drop the row"
        )
    return found | {"time": units[unit], "unit": unit}


def _measurement(where: str, given: Row, clock_mhz: float) -> tuple[LayerShape, float]:
    """Shape and cycles of one row."""
    row = _columns(where, given)
    kind = row["kind"].lower()
    if kind not in KINDS:
        raise ConfigError(f"{where}: kind {kind!r} does not exist: use {', '.join(KINDS)}.{nearest(kind, KINDS)}")
    channels = [_channels(where, row, name) for name in ("in_channels", "out_channels")]
    size = _sizes(where, row, "output_size")
    groups = channels[0] if kind == "depthwise" else prod(_sizes(where, row, "groups"))
    if channels[0] % groups or channels[1] % groups:
        raise ConfigError(f"{where}: {channels[0]} and {channels[1]} channels do not divide into {groups} groups")
    shape = LayerShape(
        kind,  # type: ignore[arg-type]
        channels[0],
        channels[1],
        kernel=_sizes(where, row, "kernel"),
        positions=prod(size),
        output_size=size,
        stride=_sizes(where, row, "stride"),
        groups=groups,
        weight_bits=8,
    )
    count, unit = _number(where, row["unit"], row["time"]), row["unit"]
    return shape, count if unit in ("cycles", "ticks") else count * SECONDS[unit] * 1e6 * clock_mhz


def _number(where: str, column: str, text: str) -> float:
    value = number(text)
    if not (isfinite(value) and value > 0):
        raise ConfigError(f"{where}: {column} is {text!r}: give a positive number")
    return value


def _channels(where: str, row: Mapping[str, str], column: str) -> int:
    count = _number(where, column, row[column])
    if count != int(count) or count >= _MOST:
        raise ConfigError(f"{where}: {column} is {row[column]!r}: give a whole number below {_MOST:,}")
    return int(count)


def _sizes(where: str, row: Mapping[str, str], column: str) -> tuple[int, ...]:
    """`"3x3"`, `"(3, 3)"`, `"[3, 3]"` -> (3, 3); an absent or empty column -> (1,)."""
    text = row.get(column, "1").strip("()[] ").rstrip(",")
    parts = [part.strip().removesuffix(".0") for part in re.split("[x*,;\N{MULTIPLICATION SIGN}]", text)]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts) or len(parts) > 3:
        raise ConfigError(f"{where}: {column} is {row[column]!r}: give positive integers joined by 'x', as in '3x3'")
    return tuple(int(part) for part in parts)
