"""Which nodes of a traced model run, and who reads whose result, once branches are decided? The graph itself stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from nasopt.graph.branches.decided import entry_of, is_changed_in_place
from nasopt.graph.branches.markers import BranchInput, Choice
from nasopt.graph.branches.regions import Region, happens
from nasopt.graph.edit import is_in_place


@dataclass(frozen=True)
class Flow:
    """The graph that `nasopt.graph.branches.decided.decide` would leave, as a view of the graph with all branches.

    A `Choice` stands in it where `decide` would put a copy of what a branch passes on; no other markers do.

    Attributes:
        nodes: those that run, in order; without what only branches read that are not chosen.
        inputs: node -> nodes whose results it reads.
        users: node -> nodes that read its result.
    """

    nodes: list[fx.Node]
    inputs: dict[fx.Node, list[fx.Node]]
    users: dict[fx.Node, list[fx.Node]]


class Flows:
    """The flows of one traced model.

    Args:
        module: the model.
        where: region of every node.
    """

    def __init__(self, module: fx.GraphModule, where: Mapping[fx.Node, Region]) -> None:
        markers = {name: m for name, m in module.named_modules() if isinstance(m, (BranchInput, Choice))}
        called = [node for node in module.graph.nodes if node.op == "call_module" and node.target in markers]
        self._choices = {node for node in called if isinstance(markers[str(node.target)], Choice)}
        self._entries = set(called) - self._choices
        self._entry_of = {node: entry_of(module, node) for node in module.graph.nodes} if markers else {}
        self._changed = {node for node in self._choices if is_changed_in_place(module, node)}
        self._stays = {n for n in module.graph.nodes if n.op in ("placeholder", "output") or is_in_place(n)}
        self._nodes = [(node, where.get(node, ())) for node in module.graph.nodes]

    def under(self, decisions: Mapping[str, int]) -> Flow:
        """What runs under decisions: path of every choice -> index of its branch."""
        running = [node for node, region in self._nodes if happens(region, decisions)]
        before: dict[fx.Node, list[fx.Node]] = {}
        source: dict[fx.Node, fx.Node] = {}
        passed_on: set[fx.Node] = set()
        for node in running:
            chosen: Any = self._entry_of.get(node)
            if chosen is not None:
                passed_on.add(node)
            elif node in self._choices:
                chosen = node.args[decisions[str(node.target)]]
                if chosen in passed_on and node not in self._changed:
                    passed_on.add(node)
                elif chosen in passed_on:  # a copy
                    before[node], chosen = [source[chosen]], None
            source[node] = node if chosen is None else source[chosen]
            if source[node] is node and node not in self._entries and node not in before:
                before[node] = list(dict.fromkeys(source[n] for n in node.all_input_nodes))
        wanted: set[fx.Node] = set()
        for node in reversed(before):
            if node in wanted or node in self._stays:
                wanted.update((node, *before[node]))
        inputs = {node: read for node, read in before.items() if node in wanted}
        users: dict[fx.Node, list[fx.Node]] = {node: [] for node in inputs}
        for node, read in inputs.items():
            for one in read:
                users[one].append(node)
        return Flow(list(inputs), inputs, users)
