"""Targets from tables of measured layers, one layer a row: the fit of `calibration` on networks of one layer."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path

import numpy as np

from nasopt.cost.calibration import LAYER_LIMIT, LAYER_NOISE, fit_checked, make_target, ratios_of, units_of_rows
from nasopt.cost.latency import exact_row
from nasopt.cost.targets.registry import get_target
from nasopt.cost.targets.target import Target
from nasopt.errors import ConfigError, nearest
from nasopt.graph.layer_shape import KINDS, LayerShape

_REQUIRED = ("kind", "in_channels", "out_channels")
_TIMES = {"cycles": None, "ms": 1e3, "us": 1.0}
"""Column of the measurement -> cycles per unit and MHz, None for cycles."""


def target_from_table(
    table: str | Path | Iterable[Mapping[str, str]],
    name: str,
    clock_mhz: float,
    ram_bytes: int = 0,
    flash_bytes: int = 0,
    active_power_mw: float = 0.0,
    like: str | Target = "cortex_m4",
) -> Target:
    """A target whose prices are fitted to measured layers, with error bars; measurements may be noisy.

    Args:
        table: a CSV file, or its rows as mappings. Columns: `kind` (of `LayerShape`), `in_channels`, `out_channels`,
            and one of `cycles`, `ms`, `us`; optional `kernel` ("3x3", default 1), `output_size` ("32x32", default 1; input
            size for `conv_transpose`), `stride` ("2x2", default 1), `groups` (default 1).
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
    for number, row in rows:
        label = f"{source}, row {number}"
        shape, count = _measurement(label, row, clock_mhz)
        shapes.append(exact_row(shape))
        cycles.append(count)
        labels.append(f"{label} ({shape.kind})")
    if not shapes:
        raise ConfigError(f"{source}: no rows, so there is nothing to fit: give at least one measured layer")
    posterior = fit_checked(
        units_of_rows(np.asarray(shapes)),
        np.asarray(cycles),
        ratios_of(base),
        labels,
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


def _read(table: str | Path | Iterable[Mapping[str, str]]) -> tuple[str, list[tuple[int, Mapping[str, str]]]]:
    """Name of the source, and rows with the number a person would count (the header of a file is row 1)."""
    if not isinstance(table, str | Path):
        return "table", list(enumerate(table, start=1))
    try:
        with Path(table).open(newline="") as file:
            return str(Path(table).name), list(enumerate(csv.DictReader(file), start=2))
    except (OSError, ValueError) as error:
        raise ConfigError(f"table {str(table)!r} cannot be read: {error}") from error


def _measurement(where: str, row: Mapping[str, str], clock_mhz: float) -> tuple[LayerShape, float]:
    """Shape and cycles of one row."""
    for column in _REQUIRED:
        if not row.get(column):
            raise ConfigError(
                f"{where}: {column!r} is missing: a row needs {', '.join(_REQUIRED)}, and cycles, ms or us"
            )
    kind = row["kind"]
    if kind not in KINDS:
        raise ConfigError(f"{where}: kind {kind!r} does not exist: use {', '.join(KINDS)}.{nearest(kind, KINDS)}")
    channels = [int(_number(where, row, column)) for column in ("in_channels", "out_channels")]
    size = _sizes(where, row, "output_size")
    groups = channels[0] if kind == "depthwise" else _product(_sizes(where, row, "groups"))
    if channels[0] % groups or channels[1] % groups:
        raise ConfigError(f"{where}: {channels[0]} and {channels[1]} channels do not divide into {groups} groups")
    shape = LayerShape(
        kind,  # type: ignore[arg-type]
        channels[0],
        channels[1],
        kernel=_sizes(where, row, "kernel"),
        positions=_product(size),
        output_size=size,
        stride=_sizes(where, row, "stride"),
        groups=groups,
        weight_bits=8,
    )
    given = [column for column in _TIMES if row.get(column)]
    if not given:
        raise ConfigError(
            f"{where}: neither 'cycles' nor 'ms' nor 'us' is given: write the measurement, or drop the row"
        )
    count = _number(where, row, given[0])
    scale = _TIMES[given[0]]
    return shape, count if scale is None else count * scale * clock_mhz


def _number(where: str, row: Mapping[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = float("nan")
    if not (isfinite(value) and value > 0):
        raise ConfigError(f"{where}: {column} is {row[column]!r}: give a positive number")
    return value


def _sizes(where: str, row: Mapping[str, str], column: str) -> tuple[int, ...]:
    """`"3x3"` -> (3, 3); an absent or empty column -> (1,)."""
    parts = (row.get(column) or "1").split("x")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"{where}: {column} is {row[column]!r}: give positive integers joined by 'x', as in '3x3'")
    return tuple(int(part) for part in parts)


def _product(sizes: tuple[int, ...]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product
