"""Why was nothing removed here? Groups of channels as a text and as a graph."""

from __future__ import annotations

from typing import Any

from nasopt.graph.groups import Analysis, Group


class Explanation:
    """Every group of channels of a model: who writes it, who reads it, searchable or fixed and why.

    `print(explanation)` shows a table; `graph` is a `networkx.DiGraph` with an edge from every writer to its group and from
    the group to every reader.

    Attributes:
        groups: the groups, searchable ones first.
        unknown: calls that have no rule; their channels are fixed.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.groups: list[Group] = analysis.groups
        self.unknown: list[str] = list(analysis.propagation.unknown)

    @property
    def graph(self) -> Any:
        """`networkx.DiGraph`: nodes are layers (`kind="layer"`) and groups (`kind="group"`, `size`, `searchable`, `reason`)."""
        import networkx

        graph = networkx.DiGraph()
        for group in self.groups:
            node = f"channels of {group.name}"
            graph.add_node(node, kind="group", size=group.size, searchable=group.searchable, reason=group.reason)
            for layer in group.writers:
                graph.add_node(layer, kind="layer")
                graph.add_edge(layer, node)
            for layer in group.readers:
                graph.add_node(layer, kind="layer")
                graph.add_edge(node, layer)
        return graph

    def __str__(self) -> str:
        lines = []
        for group in self.groups:
            state = "searchable" if group.searchable else f"fixed: {group.reason}"
            lines.append(f"{group.name}: {group.size} channels, {state}")
            lines.append(f"    written by {_listed(group.writers)}; read by {_listed(group.readers)}")
        if self.unknown:
            lines.append(f"without a rule (their channels are fixed): {_listed(tuple(self.unknown))}")
        return "\n".join(lines) or "no layer of this model writes channels"

    __repr__ = __str__


def _listed(names: tuple[str, ...], most: int = 6) -> str:
    if not names:
        return "nobody"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
