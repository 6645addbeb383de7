"""The text of a `CostReport`: its table, and the notes below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nasopt.tables import listed

if TYPE_CHECKING:
    from nasopt.cost.report import CostReport


def report_table(report: CostReport) -> list[list[str]]:
    """Header, layers, totals."""
    totals = report.totals()
    # A convolution adds what it multiplies; only where some layers add without multiplying are these numbers two.
    adds = any(layer.shape.kind == "adder" for layer in report.layers)
    header = ["layer", "kind", "shape", "params", "MACs", "%", *(["additions"] if adds else []), "live B"]
    header += ["direct ops", "transform ops"] if report.transform else []
    for target in report.targets:
        header += [f"{target.name} cycles", "ms", "%"]
    lines = [header]
    for row in report.rows():
        line = [row["layer"], row["kind"], _shape(row), f"{row['params']:,}", f"{row['macs']:,}"]
        line += [_share(row["macs_percent"]), *([_whole(row["additions"])] if adds else []), _whole(row["live_bytes"])]
        if report.transform:
            line += [
                _cheaper(row["direct_ops"], row["transform_ops"]),
                _cheaper(row["transform_ops"], row["direct_ops"]),
            ]
        for target in report.targets:
            ms = row[f"{target.name}_ms"]
            line += [_whole(row[f"{target.name}_cycles"]), "?" if ms is None else f"{ms:.3f}"]
            line.append(_share(row[f"{target.name}_percent"]))
        lines.append(line)
    last = ["total", "", "", f"{totals['params']:,}", f"{totals['macs']:,}", ""]
    last += [*([_whole(totals["additions"])] if adds else []), _whole(totals["memory"]), *([""] * 2 * report.transform)]
    for target in report.targets:
        last += [_whole(totals["cycles"][target.name]), f"{totals['ms'][target.name]:.3f}", ""]
    return [*lines, last]


def report_notes(report: CostReport) -> list[str]:
    """Peak memory, intervals, what fits where, and everything that has no price."""
    totals, text = report.totals(), [_memory(report)]
    for name, (low, high) in report.intervals().items():
        text.append(f"90 % interval of the time on {name}: {low:.3f} to {high:.3f} ms")
    if report.deployment is not None:
        text += [str(report.deployment), *(report.deployment.verdict(target) for target in report.targets)]
    for target in report.targets:
        if missing := totals["without_law"][target.name]:
            text.append(f"{target.name} has no law for {listed(missing)}: its total is a lower bound")
        text += dict.fromkeys(lacks for layer in report.layers if (lacks := target.lacks(layer.shape)))
        energy = totals["energy_uj"].get(target.name)
        if energy is not None:
            text.append(f"energy on {target.name}: {energy:,.1f} uJ at {target.active_power_mw:g} mW")
    if report.transform:
        text.append("operations of convolutions: * the cheaper way; a modular operation counts as two")
    if report.unpriced:
        text.append(f"without a price, in no total: {listed(report.unpriced)}")
    if report.free:
        text.append(f"free by convention: {listed(report.free)}")
    return text


def _memory(report: CostReport) -> str:
    given, best = report.memory.given, report.memory.best
    text = f"peak memory {_whole(given.size)} B (8 bit) at {given.step}, live: {', '.join(given.live)}"
    if best.size < given.size:
        proof = "the smallest there is" if report.memory.exact else "found by a greedy search"
        text += f"; {_whole(best.size)} B in another order, {proof}"
    return text


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


def _cheaper(own: int | None, other: int | None) -> str:
    return "" if own is None or other is None else f"{own:,}{' *' if own < other else '  '}"


def _share(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.1f}"
