"""Table and picture of what the arena has found: figures and hypervolumes with standard errors over the seeds."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.tasks import get_task
from nasopt.cost import network_cost
from nasopt.pareto import hypervolume

Rows = list[dict[str, str]]


def mean_and_error(values: list[float]) -> str:
    """`mean +- standard error`, the latter from two values on."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):.2f} +- {error:.2f}"


def report(rows: Rows, plot: Path | None) -> None:
    """Per task: figures at every share, and the hypervolume, with standard errors over the seeds; a picture."""
    rows = [row for row in rows if row["test"]]
    for place in dict.fromkeys((row["task"], row["data"], row["epochs"], row["amp"]) for row in rows):
        here = [row for row in rows if (row["task"], row["data"], row["epochs"], row["amp"]) == place]
        shares = sorted({row["share"] for row in here}, key=float)
        task = get_task(place[0])
        whole = network_cost(
            task.seed(task.dataset(place[1]).load(DataOptions()).num_classes), "size", task.input_shape
        )
        how = f"epochs {place[2]}{', bfloat16' * (place[3] == 'True')}"
        what = f"test {task.figure_name} [%] (mean size), share of {whole:,} weights"
        print(f"\n{place[0]} on {place[1]}, {how}; {what}")
        print(f"| method | {' | '.join(shares)} | hypervolume [%] |\n| --- |{' ---: |' * (len(shares) + 1)}")
        for method in dict.fromkeys(row["method"] for row in here):
            cells = []
            mine = [row for row in here if row["method"] == method]
            for share in shares:
                runs = [row for row in mine if row["share"] == share]
                size = statistics.fmean(float(row["size"]) for row in runs) if runs else 0
                figures = [100 * float(row["test"]) for row in runs]
                cells.append(f"{mean_and_error(figures)} ({size:,.0f})" if runs else "")
            volumes = []
            for seed in dict.fromkeys(row["seed"] for row in mine):
                points = [(float(row["size"]) / whole, float(row["test"])) for row in mine if row["seed"] == seed]
                volumes.append(100 * hypervolume(points, (1.0, 0.0)))
            print(f"| {method} | {' | '.join(cells)} | {mean_and_error(volumes)} |")
    if plot is not None:
        draw(rows, plot)


def draw(rows: Rows, path: Path) -> None:
    """A panel per task: every network a dot, a line through the means of each method."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places = list(dict.fromkeys((row["task"], row["data"], row["epochs"], row["amp"]) for row in rows))
    figure = Figure(figsize=(5.5 * len(places), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, place in zip(figure.subplots(1, len(places), squeeze=False)[0], places, strict=True):
        here = [row for row in rows if (row["task"], row["data"], row["epochs"], row["amp"]) == place]
        for method in dict.fromkeys(row["method"] for row in here):
            by_share: dict[str, list[tuple[float, float]]] = {}
            for row in here:
                if row["method"] == method:
                    by_share.setdefault(row["share"], []).append((float(row["size"]), 100 * float(row["test"])))
            means = sorted(tuple(map(statistics.fmean, zip(*runs, strict=True))) for runs in by_share.values())
            (line,) = axes.plot([x for x, _ in means], [y for _, y in means], marker="o", label=method)
            dots = [dot for runs in by_share.values() for dot in runs]
            axes.scatter([x for x, _ in dots], [y for _, y in dots], s=8, alpha=0.4, color=line.get_color())
        axes.set(xscale="log", xlabel="size [weights]", ylabel="test [%]", title=f"{place[0]} on {place[1]}")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
