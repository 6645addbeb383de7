"""What has a sweep found? A static HTML page: Pareto fronts, hypervolumes, every network layer by layer."""

from __future__ import annotations

import base64
import html
import io
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks_mlperf_tiny import published
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.files import write_bytes, write_text
from benchmarks_mlperf_tiny.measure import TARGETS, Layer
from benchmarks_mlperf_tiny.pareto import front, hypervolume
from benchmarks_mlperf_tiny.plots import draw_fronts
from benchmarks_mlperf_tiny.summary import COSTS

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #1f2328 }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { padding: .25em .7em; border-bottom: 1px solid #d0d7de; text-align: right }
th:first-child, td:first-child { text-align: left }
tr.front { background: #ddf4ff } img { max-width: 100% } .note { color: #57606a }
"""


@dataclass(frozen=True)
class Network:
    """A finished network of a sweep: its settings and its summary."""

    name: str
    config: dict[str, Any]
    summary: dict[str, Any]

    @property
    def found(self) -> dict[str, Any]:
        """Costs, figures and layers."""
        found: dict[str, Any] = self.summary["found"]
        return found

    def point(self, cost: str) -> tuple[float, float]:
        """`(cost, test figure)`."""
        return float(self.found[cost]), float(self.found["test"])


def read_networks(folder: Path) -> dict[tuple[str, str], list[Network]]:
    """All finished networks below a folder, by task and data.

    Raises:
        BenchmarkError: there is none, or a summary cannot be read.
    """
    groups: dict[tuple[str, str], list[Network]] = defaultdict(list)
    for path in sorted(folder.rglob("summary.json")):
        try:
            summary = json.loads(path.read_text())
            network = Network(path.parent.name, summary["config"], summary)
            groups[network.config["task"], network.config["data"]].append(network)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BenchmarkError(f"{path} cannot be read ({error!r}): remove it, and run the sweep again") from error
    if not groups:
        raise BenchmarkError(f"no finished network lies below {folder}: run `search` or `sweep` first, or give --out")
    return dict(groups)


def by_method(networks: list[Network]) -> dict[str, list[Network]]:
    """Networks of each search method; the plain seeds are left out."""
    methods: dict[str, list[Network]] = defaultdict(list)
    for network in networks:
        if network.config["method"] != "seed":
            methods[network.config["method"]].append(network)
    return dict(methods)


def setting(config: dict[str, Any]) -> str:
    """Budget or strength of a search."""
    return str(config.get("budget") or f"{config['strength']:g}")


def layer_text(fields: dict[str, Any]) -> str:
    """A layer of a summary, readable."""
    return str(Layer(**{**fields, "kernel": tuple(fields["kernel"])}))


def network_rows(networks: list[Network], chosen: set[str]) -> str:
    """Table rows of networks, those on a front marked."""
    rows = []
    for network in sorted(networks, key=lambda network: network.found["macs"]):
        found, config = network.found, network.config
        cells = [
            html.escape(network.name),
            html.escape(config["method"]),
            html.escape(setting(config)),
            str(config["seed"]),
            *(f"{found[key]:,}" for key in COSTS),
            *("" if found[f"{target}_ms"] is None else f"{found[f'{target}_ms']:.3f}" for target in TARGETS),
            *(f"{found[key]:.4f}" for key in ("val", "test")),
            f"{found['seconds']:.0f}",
        ]
        mark = ' class="front"' if network.name in chosen else ""
        rows.append(f"<tr{mark}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "\n".join(rows)


def layer_table(networks: list[Network]) -> str:
    """Layers of the seed and of the networks on a front, side by side."""
    columns = [("seed", networks[0].summary["seed"]["layers"])] + [(n.name, n.found["layers"]) for n in networks]
    names = list(dict.fromkeys(name for _, layers in columns for name in layers))
    head = "".join(f"<th>{html.escape(title)}</th>" for title, _ in columns)
    body = "\n".join(
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f"<td>{layer_text(layers[name]) if name in layers else 'gone'}</td>" for _, layers in columns)
        + "</tr>"
        for name in names
    )
    return f"<table><tr><th>layer</th>{head}</tr>\n{body}</table>"


def section(task: str, data: str, networks: list[Network], picture: bytes) -> str:
    """The part of the page about one task on one data set."""
    synthetic = networks[0].summary["synthetic"]
    parts = [f"<h2>{html.escape(task)} on {html.escape(data)}{' (synthetic data)' if synthetic else ''}</h2>"]
    parts.append(f'<img alt="cost and figure" src="data:image/png;base64,{base64.b64encode(picture).decode()}">')
    chosen: list[Network] = []
    lines = []
    for method, members in by_method(networks).items():
        points = [member.point("macs") for member in members]
        best = [members[index] for index in front(points)]
        chosen += best
        worst = (float(members[0].summary["seed"]["macs"]), 0.0)
        share = hypervolume(points, worst) / worst[0]
        lines.append(
            f"<tr><td>{html.escape(method)}</td><td>{len(members)}</td><td>{len(best)}</td><td>{share:.4f}</td></tr>"
        )
    if lines:
        head = "<tr><th>method</th><th>networks</th><th>on the front</th><th>hypervolume</th></tr>"
        parts.append(f"<table>{head}{''.join(lines)}</table>")
        parts.append('<p class="note">Hypervolume: of MACs over the seed\'s and the test figure, reference (1, 0).</p>')
    titles = ["network", "method", "strength or budget", "seed", *COSTS.values()]
    titles += [*(f"{target} [ms]" for target in TARGETS), "val", "test", "seconds"]
    head = "".join(f"<th>{title}</th>" for title in titles)
    parts.append(f"<table><tr>{head}</tr>{network_rows(networks, {network.name for network in chosen})}</table>")
    if chosen:
        parts.append("<h3>Layer by layer: the networks on the fronts</h3>" + layer_table(chosen))
    if task in published.CURVES:
        parts.append(published_table(task))
    return "\n".join(parts)


def published_table(task: str) -> str:
    """The published points of a task."""
    params, accuracy = published.SEEDS[task]
    rows = [f"<tr><td>seed</td><td>{params:,}</td><td>{accuracy:.2f}</td></tr>"]
    for method, curve in published.CURVES[task].items():
        rows += [f"<tr><td>{method}</td><td>{params:,}</td><td>{accuracy:.2f}</td></tr>" for params, accuracy in curve]
    head = "<tr><th>method</th><th>params</th><th>accuracy [%]</th></tr>"
    return f"<h3>Published, on the original data</h3><table>{head}{''.join(rows)}</table>"


def write_report(folder: Path) -> Path:
    """Write `report.html` and one `pareto-TASK-DATA.png` for each task into a results folder.

    Returns:
        Path of the page, which needs no other file.

    Raises:
        BenchmarkError: there is nothing to report.
    """
    parts = []
    for (task, data), networks in read_networks(folder).items():
        picture = io.BytesIO()
        curves = {
            method: [member.point("macs") for member in members] for method, members in by_method(networks).items()
        }
        labels = {
            method: [setting(member.config) for member in members] for method, members in by_method(networks).items()
        }
        seeds = [network.point("macs") for network in networks if network.config["method"] == "seed"]
        title = f"{task} on {data}" + (" (synthetic)" if networks[0].summary["synthetic"] else "")
        draw_fronts(title, "MACs", networks[0].summary["figure"], curves, seeds, labels, picture)
        content = picture.getvalue()
        write_bytes(folder / f"pareto-{task}-{data}.png", content)
        parts.append(section(task, data, networks, content))
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>nasopt: found networks</title>'
        f"<style>{STYLE}</style></head><body><h1>Found networks</h1>\n{''.join(parts)}</body></html>\n"
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"
