"""Pictures of found cells of a NASB search: nodes from left to right, the backbone straight, kept operations as arcs.

draw_cells(model.cell_summary(), "cells.png")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import networkx as nx

_BINARY, _REAL = "#b5472f", "#2f6db5"


def cell_graph(cell: Mapping[str, Any]) -> nx.MultiDiGraph:
    """A found cell as a NetworkX graph: nodes `(branch, i)` with `shape`; edges with `operation`, "backbone" among them.

    Args:
        cell: one cell of `NASB.cell_summary()`.
    """
    graph = nx.MultiDiGraph()
    for branch in range(cell["branches"]):
        for i, shape in enumerate(cell["shapes"]):
            graph.add_node((branch, i), shape=tuple(shape))
        for i in range(len(cell["shapes"]) - 1):
            graph.add_edge((branch, i), (branch, i + 1), operation="backbone")
    for kept in cell["kept"]:
        ends = ((kept["branch"], kept["source"]), (kept["branch"], kept["target"]))
        graph.add_edge(*ends, operation=kept["operation"])
    return graph


def draw_cells(cells: Mapping[str, Mapping[str, Any]], path: Any = None) -> Any:
    """One row per branch of every cell; arcs of binary operations only red, others blue. Returns the matplotlib figure.

    Args:
        cells: from `NASB.cell_summary()`.
        path: a file to write; None: none.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [(name, cell, branch) for name, cell in cells.items() for branch in range(cell["branches"])]
    longest = max(len(cell["shapes"]) for cell in cells.values())
    reaches = [_reach(cell, branch) for _, cell, branch in rows]
    figure = Figure(figsize=(1.7 * longest, 1.7 * sum(2 * reach for reach in reaches)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), 1, squeeze=False, gridspec_kw={"height_ratios": reaches})
    for axes, (name, cell, branch), reach in zip(grid[:, 0], rows, reaches):
        _draw_row(axes, cell_graph(cell), branch)
        axes.set_title(name if cell["branches"] == 1 else f"{name}, branch {branch}", loc="left")
        axes.set_xlim(-0.5, longest - 0.5)
        axes.set_ylim(-reach, reach)
        axes.set_aspect("equal")
        axes.axis("off")
    if path is not None:
        figure.savefig(path)
    return figure


def _arcs(edges: Iterable[tuple[int, int, str]]) -> dict[tuple[int, int], list[str]]:
    """Operations that share an arc: those from one node to another."""
    found: dict[tuple[int, int], list[str]] = {}
    for source, target, operation in edges:
        found.setdefault((source, target), []).append(operation)
    return found


def _height(source: int, target: int, operations: list[str]) -> float:
    """How far an arc swings out, in distances between neighbouring nodes; above from odd nodes, below from even ones."""
    return (1 if source % 2 else -1) * (0.18 + 0.17 * (target - source) + 0.05 * len(operations))


def _reach(cell: Mapping[str, Any], branch: int) -> float:
    edges = [(k["source"], k["target"], k["operation"]) for k in cell["kept"] if k["branch"] == branch]
    tops = [abs(_height(*ends, names)) + 0.07 * len(names) for ends, names in _arcs(edges).items()]
    return 0.2 + max([0.4, *tops])


def _draw_row(axes: Any, graph: nx.MultiDiGraph, branch: int) -> None:
    nodes = [node for node in graph if node[0] == branch]
    edges = [(i, j, name) for (one, i), (_, j), name in graph.edges(data="operation") if one == branch]
    for i, j, _ in [edge for edge in edges if edge[2] == "backbone"]:
        _arrow(axes, i, j, 0.0, _BINARY, 1.8)
    for (i, j), operations in _arcs(edge for edge in edges if edge[2] != "backbone").items():
        height = _height(i, j, operations)
        color = _BINARY if all("conv" in name for name in operations) else _REAL
        # The arc's highest point lies at half the distance of its control point.
        _arrow(axes, i, j, 2 * height / (j - i), color, 1.1)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text((i + j) / 2, -height, "\n".join(operations), ha="center", va="center", fontsize=6.5, bbox=box)
    axes.scatter([i for _, i in nodes], [0] * len(nodes), s=420, facecolor="white", edgecolor="black", zorder=2)
    for _, i in nodes:
        shape = "x".join(str(size) for size in graph.nodes[(branch, i)]["shape"])
        axes.text(i, 0, str(i), ha="center", va="center", fontsize=9, zorder=3)
        axes.text(i, -0.17 if i % 2 == 0 else 0.17, shape, ha="center", va="center", fontsize=6.5, zorder=3)


def _arrow(axes: Any, i: int, j: int, bend: float, color: str, width: float) -> None:
    style = {"arrowstyle": "-|>", "color": color, "lw": width, "shrinkA": 10, "shrinkB": 10}
    axes.annotate("", (j, 0), (i, 0), arrowprops={**style, "connectionstyle": f"arc3,rad={bend}"})
