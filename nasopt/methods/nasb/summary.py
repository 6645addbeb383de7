"""What has a search of cells decided? As plain values, and as text."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nasopt.methods.nasb.layout import Layout

Pairs = list[tuple[int, int]]


def summarise_cells(layout: Layout, chances: Tensor, kept: Pairs) -> dict[str, Any]:
    """Every cell with its `shapes`, `branches`, mean `entropy` over its edges [nat], and what is `kept`.

    Args:
        layout: of the search model.
        chances: p of every candidate on every edge, shape `(rows, candidates)`.
        kept: (row, column) of the operations that stay.
    """
    entropy = -(chances * chances.clamp(min=1e-12).log()).sum(1)
    cells: dict[str, Any] = {}
    for i, ((name, cell), first, choices) in enumerate(zip(layout.cells, layout.first_row, layout.choices(kept))):
        probabilities = [float(chances[row, column]) for row, column in kept if layout.cell_of(row) == i]
        cells[name] = {
            "shapes": [list(shape) for shape in cell.shapes],
            "branches": cell.branches,
            "entropy": float(entropy[first : first + len(cell.edges)].mean()),
            "kept": [
                {**vars(choice.edge), "operation": choice.operation, "probability": probability}
                for choice, probability in zip(choices, probabilities)
            ],
        }
    return cells


def kept_rows(layout: Layout, kept: Pairs) -> dict[str, list[list[Any]]]:
    """Of every cell `[branch, source, target, operation]` of what is kept: the form that a structure has."""
    return {
        name: [[c.edge.branch, c.edge.source, c.edge.target, c.operation] for c in choices]
        for (name, _), choices in zip(layout.cells, layout.choices(kept))
    }


def summary_text(title: str, summary: dict[str, Any]) -> str:
    """A summary, one line per cell, operation and cost."""
    lines = [title]
    for name, cell in summary["cells"].items():
        lines.append(f"  {name}: {len(cell['shapes'])} nodes, entropy {cell['entropy']:.2f}")
        for one in cell["kept"]:
            branch = f" of branch {one['branch']}" if cell["branches"] > 1 else ""
            arrow = f"{one['source']} -> {one['target']}{branch}"
            lines.append(f"    {arrow}: {one['operation']} ({one['probability']:.0%})")
    lines += [f"  {name}: {cost['now']:,} now; {cost['seed']:,} (seed)" for name, cost in summary["cost"].items()]
    return "\n".join(lines)
