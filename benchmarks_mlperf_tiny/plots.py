"""How do fronts look? Cost against figure of merit, one colour per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import BinaryIO

from benchmarks_mlperf_tiny.pareto import Point, front


def draw_fronts(
    title: str,
    cost: str,
    figure_name: str,
    curves: Mapping[str, Sequence[Point]],
    seeds: Sequence[Point],
    labels: Mapping[str, Sequence[str]],
    file: BinaryIO,
) -> None:
    """A PNG with the points of every method, a step line through the non-dominated ones, and the seeds as stars.

    Args:
        title: above the picture.
        cost, figure_name: labels of the axes.
        curves: method -> `(cost, figure)` of its networks.
        seeds: `(cost, figure)` of plain seeds.
        labels: method -> strength or budget of its networks, written beside the points.
        file: to write to.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for method, points in curves.items():
        chosen = [points[index] for index in front(points)]
        (line,) = axes.step([x for x, _ in chosen], [y for _, y in chosen], where="post", label=method)
        axes.scatter([x for x, _ in points], [y for _, y in points], s=18, color=line.get_color(), zorder=3)
        for point, label in zip(points, labels[method], strict=True):
            axes.annotate(label, point, (4, -10), textcoords="offset points", fontsize=8, color=line.get_color())
    if seeds:
        axes.scatter(
            [x for x, _ in seeds], [y for _, y in seeds], s=90, marker="*", color="#1f2328", label="seed", zorder=4
        )
    axes.set_xscale("log")
    axes.set_xlabel(cost)
    axes.set_ylabel(figure_name + ", test")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    if curves or seeds:
        axes.legend(frameon=False)
    figure.savefig(file, dpi=150, format="png")
