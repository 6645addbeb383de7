"""How is a cost report shown to people? As an aligned table, with totals and what is missing in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nasopt.cost.report import CostReport


def report_text(report: CostReport) -> str:
    """Table of the layers, then totals, peak memory, and everything that has no price."""
    totals = report.totals()
    header = ["layer", "kind", "shape", "params", "MACs", "%", "live B"]
    for target in report.targets:
        header += [f"{target.name} cycles", "ms", "%"]
    lines = [header]
    for row in report.rows():
        line = [row["layer"], row["kind"], _shape(row), f"{row['params']:,}", f"{row['macs']:,}"]
        line += [_share(row["macs_percent"]), _whole(row["live_bytes"])]
        for target in report.targets:
            ms = row[f"{target.name}_ms"]
            line += [_whole(row[f"{target.name}_cycles"]), "?" if ms is None else f"{ms:.3f}"]
            line.append(_share(row[f"{target.name}_percent"]))
        lines.append(line)
    last = ["total", "", "", f"{totals['params']:,}", f"{totals['macs']:,}", "", _whole(totals["memory"])]
    for target in report.targets:
        last += [_whole(totals["cycles"][target.name]), f"{totals['ms'][target.name]:.3f}", ""]
    text = align([*lines, last], left=3)
    text += ["", _memory(report)]
    for target in report.targets:
        if missing := totals["without_law"][target.name]:
            text.append(f"{target.name} has no law for {listed(missing)}: its total is a lower bound")
        energy = totals["energy_uj"].get(target.name)
        if energy is not None:
            text.append(f"energy on {target.name}: {energy:,.1f} uJ at {target.active_power_mw:g} mW")
    if report.unpriced:
        text.append(f"without a price, in no total: {listed(report.unpriced)}")
    if report.free:
        text.append(f"free by convention: {listed(report.free)}")
    return "\n".join(text)


def _memory(report: CostReport) -> str:
    given, best = report.memory.given, report.memory.best
    text = f"peak memory {_whole(given.size)} B (8 bit) at {given.step}, live: {', '.join(map(str, given.live))}"
    if float(best.size) < float(given.size):
        proof = "the smallest there is" if report.memory.exact else "found by a greedy search"
        text += f"; {_whole(best.size)} B in another order, {proof}"
    return text


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


def _shape(row: dict[str, Any]) -> str:
    text = f"{row['in']}->{row['out']}"
    if row["kernel"]:
        text += f" {row['kernel']}"
    if any(size != "1" for size in row["stride"].split("x") if size):
        text += f"/{row['stride'].split('x')[0]}"
    if row["groups"] not in (1, row["in"]):
        text += f" g{row['groups']}"
    return text + (f" @{row['output']}" if row["output"] else "")


def _whole(number: Any) -> str:
    return "?" if number is None else f"{number:,}"


def _share(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.1f}"
