"""No circles of imports among the modules of nasopt.cost, imports inside of functions included."""

from __future__ import annotations

import ast
from pathlib import Path

import networkx as nx

import nasopt.cost

FOLDER = Path(nasopt.cost.__file__).parent


def module_of(path: Path) -> str:
    return ".".join(("nasopt", "cost", *path.relative_to(FOLDER).with_suffix("").parts)).removesuffix(".__init__")


def test_imports_form_no_circle() -> None:
    names = {module_of(path) for path in FOLDER.rglob("*.py")}
    graph = nx.DiGraph()
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                inner = (f"{node.module}.{alias.name}" for alias in node.names)
                graph.add_edges_from(
                    (module_of(path), name if name in names else node.module)
                    for name in inner
                    if name in names or node.module in names
                )
    assert graph.number_of_edges() > 20
    assert nx.is_directed_acyclic_graph(graph), nx.find_cycle(graph)
