"""Targets from tables of measured layers, one layer a row."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from itertools import pairwise
from math import isfinite
from pathlib import Path

from nasopt.cost.targets.target import Target
from nasopt.errors import ConfigError, nearest
from nasopt.graph.layer_shape import KINDS

CLASSES = ("conv", "conv_pointwise", "depthwise", "linear", "matmul", "conv_transpose")
"""Layers that are measured apart: the kinds that multiply, with 1x1 convolutions on their own."""

_REQUIRED = ("kind", "in_channels", "out_channels")


def target_from_table(
    table: str | Path | Iterable[Mapping[str, str]],
    name: str,
    clock_mhz: float,
    ram_bytes: int = 0,
    flash_bytes: int = 0,
    active_power_mw: float = 0.0,
) -> Target:
    """A target whose cycles are interpolated between measured layers.

    Args:
        table: a CSV file, or its rows as mappings. Columns: `kind` (of `LayerShape`), `in_channels`, `out_channels`,
            and `cycles` or `ms`; optional `kernel` ("3x3", default 1), `output_size` ("32x32", default 1; input size
            for `conv_transpose`), `groups` (default 1).
        name: of the new target. It is not registered: pass it around, or call `register_target`.
        clock_mhz: turns `ms` into cycles, and cycles into ms [MHz].
        ram_bytes, flash_bytes, active_power_mw: as in `Target`.

    Within each kind (1x1 convolutions apart) cycles are a piecewise linear function of the MACs. Below the smallest
    measured layer the first segment goes on, but never under the smallest layer's cycles per MAC; above the largest the
    last segment goes on. Kinds without rows are unpriced, which raises when they are asked for.

    >>> rows = [dict(kind="linear", in_channels="64", out_channels=str(n), cycles=str(100 * n)) for n in (8, 64)]
    >>> target_from_table(rows, "mine", clock_mhz=80).status("conv")
    'unpriced'

    Raises:
        ConfigError: a row or a value is missing, not a number or negative; a kind has fewer than two different sizes;
            a larger layer is measured as cheaper than a smaller one. The message names the rows.
    """
    source, rows = _read(table)
    points: dict[str, dict[int, tuple[float, int]]] = {}
    for number, row in rows:
        kind, macs, cycles = _measurement(f"{source}, row {number}", row, clock_mhz)
        known = points.setdefault(kind, {})
        if macs in known and known[macs][0] != cycles:
            raise ConfigError(
                f"{source}, rows {known[macs][1]} and {number}: two {kind} layers of {macs} MAC with "
                f"{known[macs][0]:g} and {cycles:g} cycles, so the interpolation has no value there: keep one row, "
                f"or their mean"
            )
        known[macs] = (cycles, number)
    if not points:
        raise ConfigError(f"{source}: no rows, so there is nothing to interpolate: give at least two per layer kind")
    for kind, known in points.items():
        _check_monotonic(source, kind, known)
    from nasopt.cost.targets.table_kernel import cycles as kernel  # numba is imported only when a table is made

    return Target(
        name=name,
        summary=f"{sum(map(len, points.values()))} measured layers",
        clock_mhz=clock_mhz,
        kernel=kernel,
        law=_flatten(points),
        priced=frozenset(kind.removesuffix("_pointwise") for kind in points),
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
    except OSError as error:
        raise ConfigError(f"table {str(table)!r} cannot be read: {error}") from error


def _measurement(where: str, row: Mapping[str, str], clock_mhz: float) -> tuple[str, int, float]:
    """Class, MACs and cycles of one row."""
    for column in _REQUIRED:
        if not row.get(column):
            raise ConfigError(f"{where}: {column!r} is missing: a row needs {', '.join(_REQUIRED)}, and cycles or ms")
    kind = row["kind"]
    allowed = [known for known, facts in KINDS.items() if facts.multiplies]
    if kind not in allowed:
        raise ConfigError(
            f"{where}: kind {kind!r} has no MACs to interpolate over: use {', '.join(allowed)}.{nearest(kind, allowed)}"
        )
    taps = _product(where, row, "kernel")
    channels = int(_number(where, row, "out_channels"))
    if kind != "depthwise":
        channels *= int(_number(where, row, "in_channels"))
    macs = channels * taps * _product(where, row, "output_size") // _product(where, row, "groups")
    if row.get("cycles"):
        cycles = _number(where, row, "cycles")
    elif row.get("ms"):
        cycles = _number(where, row, "ms") * clock_mhz * 1e3
    else:
        raise ConfigError(f"{where}: neither 'cycles' nor 'ms' is given: write the measurement, or drop the row")
    return ("conv_pointwise" if kind == "conv" and taps == 1 else kind), macs, cycles


def _number(where: str, row: Mapping[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = float("nan")
    if not (isfinite(value) and value > 0):
        raise ConfigError(f"{where}: {column} is {row[column]!r}: give a positive number")
    return value


def _product(where: str, row: Mapping[str, str], column: str) -> int:
    """`"3x3"` -> 9; an absent or empty column -> 1."""
    product = 1
    for part in (row.get(column) or "1").split("x"):
        if not part.strip().isdigit() or int(part) < 1:
            raise ConfigError(
                f"{where}: {column} is {row[column]!r}: give positive integers joined by 'x', as in '3x3'"
            )
        product *= int(part)
    return product


def _check_monotonic(source: str, kind: str, known: Mapping[int, tuple[float, int]]) -> None:
    if len(known) < 2:
        raise ConfigError(
            f"{source}: {kind} layers were measured at one size only, so nothing says how cycles grow: "
            f"add a second size"
        )
    sizes = sorted(known)
    for small, large in pairwise(sizes):
        if known[large][0] < known[small][0]:
            raise ConfigError(
                f"{source}, rows {known[small][1]} and {known[large][1]}: the {kind} layer of {large} MAC takes "
                f"{known[large][0]:g} cycles, less than the {known[small][0]:g} of {small} MAC, so a search would be "
                f"paid for growing: measure again, or drop one of the rows"
            )


def _flatten(points: Mapping[str, Mapping[int, tuple[float, int]]]) -> tuple[int, ...]:
    """Start of each class in `CLASSES` and the end of the last, then MACs and cycles of every point in turn."""
    starts: list[int] = []
    flat: list[int] = []
    for kind in CLASSES:
        starts.append(len(CLASSES) + 1 + len(flat))
        for macs in sorted(points.get(kind, {})):
            flat += [macs, round(points[kind][macs][0])]
    return (*starts, len(CLASSES) + 1 + len(flat), *flat)
