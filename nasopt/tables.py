"""Tables and figures for people: numbers with units, rows as HTML for notebooks; everything that is shown is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_STYLE = "border-collapse:collapse;font-variant-numeric:tabular-nums"


def figure(value: float, unit: str = "") -> str:
    """`139.8 ms`, `12,501,632 MAC`, `0.3558 ms`: a whole number in full, any other with four digits."""
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        text = f"{int(value):,}"
    else:
        text = f"{value:,.0f}" if 10_000 <= abs(value) < 1e15 else f"{value:,.4g}"
    return f"{text} {unit}".rstrip()


def html_table(rows: Sequence[Sequence[object]], left: int = 1, title: str = "", notes: Iterable[str] = ()) -> str:
    """Rows as an HTML table: the first one is its head, the first `left` columns are aligned left."""

    def line(tag: str, row: Sequence[object]) -> str:
        cells = (
            f'<{tag} style="text-align:{"left" if i < left else "right"}">{html.escape(str(cell))}</{tag}>'
            for i, cell in enumerate(row)
        )
        return f"<tr>{''.join(cells)}</tr>"

    head = f"<caption><b>{html.escape(title)}</b></caption>" if title else ""
    body = "".join(line("td", row) for row in rows[1:])
    table = f'<table style="{_STYLE}">{head}<thead>{line("th", rows[0])}</thead><tbody>{body}</tbody></table>'
    return table + "".join(f"<div>{html.escape(note)}</div>" for note in notes)


def align(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Rows as lines of equal columns; the first `left` columns are flush left, numbers flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    ]


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names after another, the first few."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
