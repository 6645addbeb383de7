"""Table and plot of what `joint_search` found: sizes and accuracies, the methods side by side at equal sizes.

    python -m benchmarks.joint_report joint.jsonl --plot joint.png

Only seeds that are there for every method and strength count.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from benchmarks.joint_search import METHODS

# Size and accuracy of one method at one strength, means over the seeds.
Point = tuple[float, float]
BASELINE = "sequential"


def grouped(results: list[dict[str, Any]]) -> dict[str, dict[float, list[dict[str, Any]]]]:
    """Method -> strength -> results of the seeds; only seeds that are there for everything count."""
    wanted = {(r["method"], r["strength"]) for r in results}
    seeds = {r["seed"] for r in results}
    full = {s for s in seeds if {(r["method"], r["strength"]) for r in results if r["seed"] == s} == wanted}
    found: dict[str, dict[float, list[dict[str, Any]]]] = {name: {} for name in METHODS}
    for result in sorted(results, key=lambda r: r["strength"]):
        if result["seed"] in full:
            found[result["method"]].setdefault(result["strength"], []).append(result)
    return {name: cells for name, cells in found.items() if cells}


def means(cells: dict[float, list[dict[str, Any]]]) -> list[Point]:
    """One point per strength, smaller networks first; the size is a geometric mean."""
    return sorted(
        (
            math.exp(statistics.mean(math.log(r["size"]) for r in runs)),
            statistics.mean(r["accuracy"] for r in runs),
        )
        for runs in cells.values()
    )


def at_size(points: list[Point], size: float) -> float | None:
    """Accuracy at a size, on straight lines over log(size) between the points; None outside of them."""
    for (left, low), (right, high) in itertools.pairwise(points):
        if left <= size <= right:
            return low + (high - low) * (math.log(size) - math.log(left)) / (math.log(right) - math.log(left))
    return None


def print_tables(found: dict[str, dict[float, list[dict[str, Any]]]]) -> None:
    """Everything, then the joint searches against the sequential one at their own sizes."""
    print("| method | strength | weights | accuracy [%] | per seed |\n| --- | ---: | ---: | ---: | --- |")
    for name, cells in found.items():
        for strength, runs in cells.items():
            ((size, accuracy),) = means({strength: runs})
            each = ", ".join(f"{r['size']:,}: {r['accuracy']:.1f}" for r in sorted(runs, key=lambda r: r["seed"]))
            print(f"| {METHODS[name].title} | {strength:g} | {size:,.0f} | {accuracy:.1f} | {each} |")
    baseline = means(found.get(BASELINE, {}))
    print(f"\nAccuracy at a method's own mean sizes minus that of {METHODS[BASELINE].title} there:")
    for name, cells in found.items():
        gaps = [(size, accuracy, at_size(baseline, size)) for size, accuracy in means(cells)]
        inside = [f"{size:,.0f}: {accuracy - other:+.1f}" for size, accuracy, other in gaps if other is not None]
        if name != BASELINE:
            print(f"  {METHODS[name].title:36} {', '.join(inside) or 'no size in common'}")


def draw(found: dict[str, dict[float, list[dict[str, Any]]]], path: Path) -> None:
    """A line through the means of every method, a small dot per run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, cells in found.items():
        points, method = means(cells), METHODS[name]
        style = "--" if method.freezes else ":" if method.stages[-1] != "joint" else "-"
        (line,) = axes.plot(*zip(*points), style, marker="o", label=method.title)
        runs = [r for runs in cells.values() for r in runs]
        axes.scatter([r["size"] for r in runs], [r["accuracy"] for r in runs], s=8, alpha=0.4, color=line.get_color())
    axes.set_xscale("log")
    axes.set_xlabel("size [weights]")
    axes.set_ylabel("accuracy, test [%]")
    axes.set_title("ResNet-8 of width 8, a subset of CIFAR-10, equal epochs", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Read, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    found = grouped([json.loads(line) for line in options.results.read_text().splitlines()])
    print_tables(found)
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    main()
