"""HTML page about the networks of a sweep: Pareto fronts, hypervolumes, every network layer by layer."""

from __future__ import annotations

import datetime
import html
import io
import platform
import re
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import torch

import nasopt
from benchmarks_mlperf_tiny import published
from benchmarks_mlperf_tiny.errors import BenchmarkError, DamagedFileError
from benchmarks_mlperf_tiny.files import read_json, write_bytes, write_text
from benchmarks_mlperf_tiny.measure import TARGETS, Layer
from benchmarks_mlperf_tiny.summary import COSTS
from nasopt import pareto

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #1f2328 }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { padding: .25em .7em; border-bottom: 1px solid #d0d7de; text-align: right }
th:first-child, td:first-child { text-align: left }
td + td { white-space: nowrap } .picture { overflow-x: auto } svg { min-width: 540px }
tr.front { background: #ddf4ff } table { display: block; overflow-x: auto } .note { color: #57606a }
"""


@dataclass(frozen=True)
class Network:
    """A finished network of a sweep: its settings and its summary."""

    name: str
    config: dict[str, Any]
    summary: dict[str, Any]
    link: str = ""

    @classmethod
    def read(cls, path: Path, folder: Path) -> Network:
        """Of a summary, which may be a stranger's: everything that the page shows is of the right kind.

        Raises:
            DamagedFileError: it is not.
        """
        summary = read_json(path)
        try:
            config, found, seed = summary["config"], summary["found"], summary["seed"]
            words = [summary["figure"], *(config[key] for key in ("task", "data", "method"))]
            numbers = [seed["macs"], config["seed"], *(found[key] for key in ("val", "test", "seconds", *COSTS))]
            numbers += [config["strength"]] if config.get("budget") is None else []
            numbers += [found[f"{target}_ms"] for target in TARGETS if found[f"{target}_ms"] is not None]
            layers = [*seed["layers"].values(), *found["layers"].values()]
            fits = all(isinstance(word, str) for word in words)
            fits &= all(isinstance(number, (int, float)) for number in numbers) and seed["macs"] > 0
            fits &= all(str(Layer(**{**layer, "kernel": tuple(layer["kernel"])})) for layer in layers)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedFileError(f"{path} is no summary of a search ({error!r}): remove it") from error
        if not fits:
            raise DamagedFileError(f"{path} is no summary of a search: it holds values of the wrong kind. Remove it")
        return cls(path.parent.name, config, summary, f"{quote(path.parent.relative_to(folder).as_posix())}/")

    @property
    def found(self) -> dict[str, Any]:
        """Costs, figures and layers."""
        found: dict[str, Any] = self.summary["found"]
        return found

    @property
    def point(self) -> tuple[float, float]:
        """`(MACs, test figure)`."""
        return float(self.found["macs"]), float(self.found["test"])

    @property
    def setting(self) -> str:
        """Budget or strength of the search."""
        return str(self.config.get("budget") or f"{self.config['strength']:g}")


Methods = dict[str, list[Network]]  # networks of each search method; the plain seeds are under "seed"


def read_networks(folder: Path) -> tuple[dict[tuple[str, str], Methods], list[str]]:
    """All finished networks below a folder, by task and data, and by method; and what is wrong with damaged ones.

    Raises:
        BenchmarkError: there is none.
    """
    damaged: list[str] = []
    groups: dict[tuple[str, str], Methods] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.rglob("summary.json")):
        try:
            network = Network.read(path, folder)
            groups[network.config["task"], network.config["data"]][network.config["method"]].append(network)
        except DamagedFileError as error:
            damaged.append(str(error))
    if not groups:
        also = f" ({'; '.join(damaged)})" if damaged else ""
        raise BenchmarkError(
            f"no finished network lies below {folder}{also}: run `search` or `sweep` first, or give --out"
        )
    return groups, damaged


def file_word(text: str) -> str:
    """Text as a part of a file name, which lies in the folder that it is written to."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:80]


def table(titles: Iterable[str], rows: Iterable[Sequence[object]], marked: Collection[object] = ()) -> str:
    """An HTML table; rows whose first cell is `marked` stand out."""
    lines = ["<tr>" + "".join(f"<th>{html.escape(title)}</th>" for title in titles) + "</tr>"]
    for row in rows:
        name = row[0].name if isinstance(row[0], Network) else row[0]
        kind = ' class="front"' if name in marked else ""
        lines.append(f"<tr{kind}>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>")
    return "<table>" + "\n".join(lines) + "</table>"


def _cell(cell: object) -> str:
    if isinstance(cell, Network):  # its folder, where the page lies above it
        return f'<a href="{html.escape(cell.link)}">{html.escape(cell.name)}</a>'
    return html.escape(str(cell))


def network_row(network: Network) -> list[object]:
    """The cells of a network."""
    found = network.found
    latencies = [found[f"{target}_ms"] for target in TARGETS]
    return [
        network,
        _method(network.config["method"]),
        network.setting,
        network.config["seed"],
        *(f"{found[key]:,}" for key in COSTS),
        *("" if latency is None else f"{latency:.3f}" for latency in latencies),
        *(f"{found[key]:.4f}" for key in ("val", "test")),
        f"{found['seconds']:.0f}",
    ]


def layer_table(networks: list[Network]) -> str:
    """Layers of the seed and of the networks on a front, side by side."""
    columns = {"seed": networks[0].summary["seed"]["layers"], **{n.name: n.found["layers"] for n in networks}}
    names = dict.fromkeys(name for layers in columns.values() for name in layers)

    def text(layers: dict[str, Any], name: str) -> str:
        return str(Layer(**{**layers[name], "kernel": tuple(layers[name]["kernel"])})) if name in layers else "gone"

    return table(["layer", *columns], [[name, *(text(layers, name) for layers in columns.values())] for name in names])


def _method(name: str) -> str:
    return "seed network" if name == "seed" else name


def section(task: str, data: str, methods: Methods) -> str:
    """The part of the page about one task on one data set."""
    networks = [network for members in methods.values() for network in members]
    synthetic = " (synthetic data)" if networks[0].summary["synthetic"] else ""
    parts = [f"<h2>{html.escape(f'{task} on {data}{synthetic}')}</h2>"]
    points = {
        _method(method): [
            pareto.Network(*n.point, f"{n.setting}, random seed {n.config['seed']}", n.link) for n in members
        ]
        for method, members in methods.items()
    }
    picture = pareto.plot(points, cost="MACs", figure=f"{networks[0].summary['figure']}, test").svg
    parts.append(f'<div class="picture">{picture}</div>')
    chosen: list[Network] = []
    rows = []
    for method, members in methods.items():
        if method != "seed":
            own = [member.point for member in members]
            best = [members[index] for index in pareto.front(own)]
            chosen += best
            macs = float(members[0].summary["seed"]["macs"])
            rows.append([method, len(members), len(best), f"{pareto.hypervolume(own, (macs, 0.0)) / macs:.4f}"])
    if rows:
        parts.append(table(["method", "networks", "on the front", "hypervolume"], rows))
        parts.append(
            '<p class="note">Hypervolume: of MACs over those of the seed network and the test figure, reference (1, 0).</p>'
        )
    titles = ["network", "method", "strength or budget", "random seed", *COSTS.values()]
    titles += [*(f"{target} [ms]" for target in TARGETS), "val", "test", "seconds"]
    by_cost = sorted(networks, key=lambda network: network.point)
    parts.append(table(titles, map(network_row, by_cost), {network.name for network in chosen}))
    if chosen:
        parts.append("<h3>Layer by layer: the networks on the fronts</h3>" + layer_table(chosen))
    if task in published.CURVES:
        curves = {"seed": [published.SEEDS[task]], **published.CURVES[task]}
        points_ = [
            [name, f"{params:,}", f"{accuracy:.2f}"] for name, curve in curves.items() for params, accuracy in curve
        ]
        parts.append("<h3>Published, on the original data</h3>" + table(["method", "params", "accuracy [%]"], points_))
    return "\n".join(parts)


def draw_fronts(title: str, methods: Methods, figure_name: str, file: BinaryIO) -> None:
    """A PNG with the points of every method, a step line through the non-dominated ones, and the seeds as stars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for method, members in methods.items():
        points = [member.point for member in members]
        costs, figures = [cost for cost, _ in points], [figure for _, figure in points]
        if method == "seed":
            axes.scatter(costs, figures, s=90, marker="*", color="#1f2328", label="seed", zorder=4)
            continue
        chosen = [points[index] for index in pareto.front(points)]
        (line,) = axes.step([x for x, _ in chosen], [y for _, y in chosen], where="post", label=method)
        axes.scatter(costs, figures, s=18, color=line.get_color(), zorder=3)
        for member in members:
            place: dict[str, Any] = {"xytext": (4, -10), "textcoords": "offset points"}
            axes.annotate(member.setting, member.point, **place, fontsize=8, color=line.get_color())
    axes.set(xscale="log", xlabel="MACs", ylabel=figure_name + ", test")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150, format="png")


def _origin(folder: Path) -> str:
    """When, from what and with which versions the page was made."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    versions = f"nasopt {nasopt.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    command = f"python -m benchmarks_mlperf_tiny report --out {shlex.quote(str(folder))}"
    return f'<p class="note">{now}; {html.escape(versions)}; made by <code>{html.escape(command)}</code></p>'


def write_report(folder: Path) -> Path:
    """Write `report.html` and one `pareto-TASK-DATA.png` for each task into a results folder.

    Returns:
        Path of the page, which needs no other file.

    Raises:
        BenchmarkError: there is nothing to report.
    """
    parts = []
    groups, damaged = read_networks(folder)
    for (task, data), methods in groups.items():
        picture = io.BytesIO()
        summary = next(iter(methods.values()))[0].summary
        title = f"{task} on {data}" + (" (synthetic)" if summary["synthetic"] else "")
        draw_fronts(title, methods, summary["figure"], picture)
        write_bytes(folder / f"pareto-{file_word(task)}-{file_word(data)}.png", picture.getvalue())
        parts.append(section(task, data, methods))
    parts += [f'<p class="note">Left out: {html.escape(message)}</p>' for message in damaged]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>nasopt: found networks</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style></head><body><h1>Found networks</h1>\n{''.join(parts)}{_origin(folder)}</body></html>\n"
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"
