"""Which nodes of a traced model run, and who reads whose result, once branches are decided? The graph itself stays."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from torch import fx

from nasopt.graph.alternatives import BranchInput, Choice
from nasopt.graph.dead_code import is_in_place
from nasopt.graph.regions import happens, regions


class Flow:
    """The graph that `nasopt.graph.decide.decide` would leave, as a view of the graph with all branches.

    Attributes:
        nodes: those that run, in order; without markers, and without what only branches read that are not chosen.
        inputs: node -> nodes whose results it reads, markers looked through.
        users: node -> nodes that read its result.
        copied: nodes that change in place what a branch without layers passes on: they work on a copy.

    Args:
        module: a traced model.
        decisions: path of every choice -> index of its branch.
    """

    def __init__(self, module: fx.GraphModule, decisions: Mapping[str, int]) -> None:
        self._decisions = decisions
        self._markers = {n: m for n, m in module.named_modules() if isinstance(m, (BranchInput, Choice))}
        where = regions(module) if self._markers else {}
        running = [node for node in module.graph.nodes if happens(where.get(node, ()), decisions)]
        sources = {node: [self._source(before) for before in node.all_input_nodes] for node in running}
        self.copied = {
            node for node in running if is_in_place(node) and any(self._is_passed_on(n) for n in node.all_input_nodes)
        }
        wanted: set[fx.Node] = set()
        for node in reversed(running):
            is_used = node in wanted or node.op in ("placeholder", "output") or is_in_place(node)
            if is_used and not self._looked_through(node):
                wanted.update((node, *sources[node]))
        self.nodes = [node for node in running if node in wanted]
        self.inputs = {node: list(dict.fromkeys(sources[node])) for node in self.nodes}
        self.users: dict[fx.Node, list[fx.Node]] = {node: [] for node in self.nodes}
        for node, before in self.inputs.items():
            for source in before:
                self.users[source].append(node)

    def _marker(self, node: Any) -> BranchInput | Choice | None:
        return self._markers.get(str(node.target)) if isinstance(node, fx.Node) and node.op == "call_module" else None

    def _source(self, node: fx.Node) -> fx.Node:
        """Where the value of a node comes from."""
        while (behind := self._behind(node)) is not None:
            node = behind
        return node

    def _behind(self, node: fx.Node) -> Any:
        marker = self._marker(node)
        if isinstance(marker, Choice):
            return node.args[self._decisions[str(node.target)]]
        if isinstance(marker, BranchInput):
            return node.args[0] if len(node.args) == 1 else None
        # Several inputs come out of a marker as a tuple.
        if node.op == "call_function" and node.target is operator.getitem:
            entry: Any = node.args[0]
            return entry.args[node.args[1]] if isinstance(self._marker(entry), BranchInput) else None
        return None

    def _looked_through(self, node: fx.Node) -> bool:
        return self._marker(node) is not None or self._behind(node) is not None

    def _is_passed_on(self, node: fx.Node) -> bool:
        while isinstance(self._marker(node), Choice):
            node = self._behind(node)
            if isinstance(self._marker(node), BranchInput):
                return True
        return False
