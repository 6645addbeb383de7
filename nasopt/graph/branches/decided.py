"""The decided graph: the chosen branch of every choice and nothing of the others, as a view and as a network.

`conv.branches.1.0` of a chosen branch 1 is renamed to `conv.0`: the names that a person would give. Several kept branches are
added up.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import fx, nn

from nasopt.graph.branches.markers import BranchInput, Choice, choices_of, is_marker
from nasopt.graph.branches.regions import Decisions, Region, happens, regions
from nasopt.graph.containers import like_seed
from nasopt.graph.edit import is_in_place
from nasopt.graph.sharing import is_changed_in_place


@dataclass(frozen=True)
class DecidedGraph:
    """What is left of a graph with branches once they are decided, in terms of its nodes; the graph stays as it is.

    Attributes:
        nodes: those that run, in order; without what only branches read that are not chosen.
        inputs: node -> nodes whose results it reads.
        users: node -> nodes that read its result.
        source: node -> the node whose result has its value; another one for markers, which are in none of the above.
        copies: choices that remain, as a copy of their input: a branch passes it on, and it is changed in place afterwards.
        sums: additions of the branches that a choice keeps. They have no nodes of their own: the entry of the branch that is
            added, at its end, stands for them.
    """

    nodes: list[fx.Node]
    inputs: dict[fx.Node, list[fx.Node]]
    users: dict[fx.Node, list[fx.Node]]
    source: dict[fx.Node, fx.Node]
    copies: dict[fx.Node, fx.Node]
    sums: dict[fx.Node, Addition]

    def like(self, node: fx.Node) -> fx.Node:
        """The node whose value is like the result: another one for additions."""
        return self.sums[node].choice if node in self.sums else node


class Addition(NamedTuple):
    """A kept branch is added to those before it.

    Attributes:
        left, right: what is added.
        choice: the node of the choice.
    """

    left: fx.Node
    right: fx.Node
    choice: fx.Node


class DecidedGraphs:
    """The decided graphs of one traced model.

    Args:
        module: the model.
        where: region of every node.
    """

    def __init__(self, module: fx.GraphModule, where: Mapping[fx.Node, Region]) -> None:
        markers = {name: m for name, m in module.named_modules() if isinstance(m, (BranchInput, Choice))}
        called = [node for node in module.graph.nodes if node.op == "call_module" and node.target in markers]
        self._choices = {node for node in called if isinstance(markers[str(node.target)], Choice)}
        self._entries = set(called) - self._choices
        self._entry_of = {node: _entry_of(module, node) for node in module.graph.nodes} if markers else {}
        self._changed = {node for node in self._choices if is_changed_in_place(module, node)}
        self._stays = {n for n in module.graph.nodes if n.op in ("placeholder", "output") or is_in_place(n)}
        self._nodes = [(node, where.get(node, ())) for node in module.graph.nodes]
        self._ends = dict(self._find_ends(module))

    def _find_ends(self, module: fx.GraphModule) -> Iterator[tuple[fx.Node, tuple[fx.Node, fx.Node, int]]]:
        """Node after a branch -> its choice, its entry, and its index; of choices that may keep several."""
        choices = {str(node.target): node for node in self._choices}
        last: dict[str, tuple[fx.Node, int]] = {}
        for node, _ in self._nodes:
            if node not in self._entries and node not in self._choices:
                continue
            marker: Any = module.get_submodule(str(node.target))
            path = str(node.target) if node in self._choices else marker.choice
            if module.get_submodule(path).keep == 1:
                continue
            if path in last:
                yield node, (choices[path], *last[path])
            if node in self._entries:
                last[path] = (node, marker.index)

    def under(self, decisions: Decisions) -> DecidedGraph:
        """What runs under decisions."""
        before: dict[fx.Node, list[fx.Node]] = {}
        source: dict[fx.Node, fx.Node] = {}
        copies: dict[fx.Node, fx.Node] = {}
        sums: dict[fx.Node, Addition] = {}
        totals: dict[fx.Node, fx.Node] = {}
        passed_on: set[fx.Node] = set()
        for node, region in self._nodes:
            if node in self._ends:
                choice, entry, branch = self._ends[node]
                if branch in decisions[str(choice.target)] and choice.args[branch] in source:
                    output = source[choice.args[branch]]  # type: ignore[index]
                    if choice in totals:
                        sums[entry] = Addition(totals[choice], output, choice)
                        before[entry] = list(dict.fromkeys((totals[choice], output)))
                    totals[choice] = entry if choice in totals else output
            if not happens(region, decisions):
                continue
            chosen: Any = self._entry_of.get(node)
            if chosen is not None:
                passed_on.add(node)
            elif node in self._choices and len(decisions[str(node.target)]) > 1:
                source[node] = totals[node]
                continue
            elif node in self._choices:
                chosen = node.args[decisions[str(node.target)][0]]
                if chosen in passed_on and node in self._changed:
                    # The search model mixes into a new tensor, which may be changed in place; the input itself may not.
                    copies[node] = source[chosen]
                    before[node], chosen = [source[chosen]], None
                elif chosen in passed_on:
                    passed_on.add(node)
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
        return DecidedGraph(list(inputs), inputs, users, source, copies, sums)


def decide(module: fx.GraphModule, decisions: Decisions) -> fx.GraphModule:
    """The network of the kept branches of every choice, without markers: a graph of its own, its layers those of `module`.

    Args:
        module: a traced model; it stays as it is.
        decisions: what is kept.
    """
    decided = DecidedGraphs(module, regions(module)).under(decisions)
    graph = fx.Graph(tracer_cls=module.graph._tracer_cls)
    made: dict[fx.Node, fx.Node] = {}
    for node in decided.nodes:
        if node in decided.copies:
            given = (made[decided.copies[node]],)
            made[node] = graph.create_node("call_method", "clone", given, {}, node.name)
        elif node in decided.sums:
            pair = (made[decided.sums[node].left], made[decided.sums[node].right])
            made[node] = graph.create_node("call_function", operator.add, pair, {}, node.name)
        else:
            made[node] = graph.node_copy(node, lambda n: made[decided.source[n]])
        made[node].meta = dict(decided.like(node).meta)
    network = fx.GraphModule(module, graph, type(module).__name__)
    network.meta = dict(module.meta)
    for name, part in network.named_modules():
        if type(part) is nn.Module:  # made by torch.fx around the layers
            part.training = module.get_submodule(name).training
    like_seed(network)
    return network


def _entry_of(module: fx.GraphModule, node: Any) -> fx.Node | None:
    """What enters a branch by this node: a `BranchInput`, or one of the several values that one passes on; else None."""
    if not isinstance(node, fx.Node):
        return None
    if is_marker(module, node, BranchInput):
        return node.args[0] if len(node.args) == 1 else None  # type: ignore[return-value]
    if node.op == "call_function" and node.target is operator.getitem:
        marker, index = node.args
        if isinstance(marker, fx.Node) and is_marker(module, marker, BranchInput) and len(marker.args) > 1:
            return marker.args[index]  # type: ignore[index, return-value]
    return None


def shorter_names(module: fx.GraphModule, decisions: Decisions) -> dict[str, str]:
    """For `rename`: kept branches are named like the layers that they stand for, `conv.branches.1` -> `conv`."""
    choices = choices_of(module)
    inner_first = sorted(decisions, key=lambda path: -path.count(".branches."))
    return {f"{c}.branches.{i}": choices[c].short_name(c, i) for c in inner_first for i in decisions[c]}


def rename(module: fx.GraphModule, names: Mapping[str, str]) -> fx.GraphModule:
    """The same network, its layers renamed by the beginnings of their paths, one after the other."""

    def short(path: str) -> str:
        for start, other in names.items():
            if path == start or path.startswith(f"{start}."):
                path = other + path.removeprefix(start)
        return path

    objects: dict[str, Any] = {}
    modes = {short(name): m.training for name, m in module.named_modules()}
    for node in module.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            found: Any = module
            for name in str(node.target).split("."):
                found = getattr(found, name)
            name = short(str(node.target))
            if name != node.target:
                node.target = name
                node._rename(name.replace(".", "_"))
            objects[name] = found
    renamed = fx.GraphModule(objects, module.graph, type(module).__name__)
    renamed.meta = dict(module.meta)
    for name, part in renamed.named_modules():
        if type(part) is nn.Module or not name:
            part.training = modes.get(name, module.training)
    like_seed(renamed, short)
    return renamed
