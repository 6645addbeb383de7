"""Reading of tables as people and tools write them: encodings, separators, decimal commas, units in the head of a column."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from nasopt.errors import ConfigError

_COLOURS = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")
_GROUPED = re.compile(r"\d{1,3}(,\d{3})+")
_COUNTED = re.compile(r"\d{1,3}([.,' ]\d{3})+")
# A comma that separates no thousands, and a point.
_DECIMAL_COMMA = re.compile(r"\d+,(\d{1,2}|\d{4,})( ?[mun]?s)?")
_DECIMAL_POINT = re.compile(r"\d+\.\d+( ?[mun]?s)?")
_UNIT = re.compile(r"(?:^|.*[\s_(\[])(cycles|ticks|ns|us|ms|s|sec|seconds)[)\]]?")
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Unit of a time -> seconds."""

Lines = list[tuple[int, list[str]]]
"""Cells of a table's rows, each with the number of its line."""


def read_text(path: str | Path, what: str) -> str:
    """A file of UTF-8 or UTF-16, with or without its mark, without the colours of a terminal.

    Raises:
        ConfigError: it cannot be read; `what` says what it would be.
    """
    try:
        content = Path(path).read_bytes()
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        return plain(content.decode(encoding))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{what} {str(path)!r} cannot be read: {error}") from error


def plain(text: str) -> str:
    """Text without marks, colours, and with one way to write a microsecond."""
    return _COLOURS.sub("", text.removeprefix("\ufeff")).replace("\N{MICRO SIGN}s", "us").replace("μs", "us")


def split(text: str) -> tuple[Lines, bool]:
    """`(rows, whether a comma in a number is a decimal one)`: cells separated by bars, semicolons, tabs, or commas.

    Empty rows, rows of empty cells and lines that begin with # are left out.
    """
    lines = text.splitlines()
    if any(line.count("|") >= 2 for line in lines):
        found = [(i, line.strip().strip("|").split("|")) for i, line in enumerate(lines, 1) if "|" in line]
        rows = _stripped(found)
        cells = [cell for _, row in rows for cell in row]
        return rows, any(map(_DECIMAL_COMMA.fullmatch, cells)) and not any(map(_DECIMAL_POINT.fullmatch, cells))
    delimiter = max(";\t,", key=lambda mark: (sum(mark in line for line in lines), text.count(mark)))
    reader = csv.reader(lines, delimiter=delimiter)
    return _stripped([(reader.line_num, row) for row in reader]), delimiter != ","


def _stripped(rows: Lines) -> Lines:
    found = [(number, [cell.strip() for cell in row]) for number, row in rows]
    return [(number, row) for number, row in found if any(row) and not row[0].startswith("#")]


def number(text: str, decimal_comma: bool = False, counts: bool = False) -> float:
    """`1.5`, `1,5` with decimal commas, `133,245` and `133'245` of thousands; nan for anything else.

    Args:
        text: of a cell.
        decimal_comma: whether a comma may be that of a decimal.
        counts: whether it counts something, cycles say: then commas and points before groups of three are of thousands.
    """
    text = text.strip().replace("'", "").replace("\N{NO-BREAK SPACE}", "").replace("\N{NARROW NO-BREAK SPACE}", "")
    if decimal_comma and counts and _COUNTED.fullmatch(text):
        text = re.sub("[., ]", "", text)
    elif decimal_comma:
        text = text.replace(".", "").replace(",", ".") if "," in text else text
    elif _GROUPED.fullmatch(text.partition(".")[0]):
        text = text.replace(",", "")
    try:
        return float(text) if "_" not in text else float("nan")
    except ValueError:
        return float("nan")


def unit_of(head: str) -> str:
    """Unit that the head of a column ends in (`time_ms`, `dur (ms)`): `"cycles"`, `"ticks"`, a key of `SECONDS`, or `""`."""
    match = _UNIT.fullmatch(head.strip().lower())
    if match is None:
        return ""
    return "s" if match[1] in ("sec", "seconds") else match[1]


def is_count(unit: str) -> bool:
    """Whether a unit of a measurement is one of whole things."""
    return unit in ("cycles", "ticks")


def column(heads: Sequence[str], names: Sequence[str]) -> int | None:
    """Place of the first of `names` among heads, whatever their case, blanks and underscores."""
    known = [_key(head) for head in heads]
    return next((known.index(_key(name)) for name in names if _key(name) in known), None)


def _key(head: str) -> str:
    return re.sub(r"[\s_-]", "", head.lower())
