"""Parts of a graph that are others in train mode: both become bodies of a `PathByMode` that stands in the graph of eval mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from nasopt.graph.any_width import takes_any_width
from nasopt.graph.edit import ENTER_AUTOCAST, LEAVE_AUTOCAST, is_check, is_counter, is_in_place
from nasopt.graph.pickling import loading_tracer
from nasopt.nn import PathByMode

# They change no number: in eval mode channels pass as they are.
_PASSING = ("detach", "clone", "contiguous")


@dataclass(frozen=True)
class Crossing:
    """A call that both modes make, whose reference number `index` is `evaluation` in eval mode and `train` in train mode."""

    user: fx.Node
    index: int
    evaluation: fx.Node
    train: fx.Node


class Sides:
    """The two graphs of one model, and which of their nodes are the same.

    Attributes:
        twin_of: node of the train graph -> node of the eval graph.
        train_of: the other way round.
        returns_other: whether the model returns something else in train mode.
    """

    def __init__(
        self, root: nn.Module, graph: fx.Graph, in_training: fx.Graph, constants: Mapping[str, Tensor]
    ) -> None:
        self.root, self.graph, self.in_training, self.constants = root, graph, in_training, constants
        self.twin_of: dict[fx.Node, fx.Node] = {}
        self.train_of: dict[fx.Node, fx.Node] = {}
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        self.returns_other = False
        self.train_order = {node: i for i, node in enumerate(in_training.nodes)}

    def match(self, node: fx.Node, twin: fx.Node) -> None:
        """They do the same."""
        self.twin_of[twin] = node
        self.train_of[node] = twin

    def pairs(self) -> list[tuple[fx.Node, fx.Node]]:
        """All of them, in the order of the graph."""
        return list(self.train_of.items())

    def is_same_constant(self, node: fx.Node) -> bool:
        """Whether a tensor that `forward` makes has the same content in both modes."""
        if node.op != "get_attr" or node.target not in self.constants:
            return True
        left, right = getattr(self.root, str(node.target), None), self.constants[str(node.target)]
        return isinstance(left, Tensor) and left.shape == right.shape and torch.equal(left, right)

    def anchor_after(self, twin: fx.Node) -> fx.Node:
        """The node of the eval graph before which something belongs that train mode does at `twin`."""
        later = twin.next
        while later not in self.twin_of:
            later = later.next
        return self.twin_of[later]

    def add_module(self, name: str, module: nn.Module, like: fx.Node) -> str:
        """Add a module beside the one that `like` was traced in, in its mode; returns its path."""
        owner = self.root.get_submodule(owner_path(like))
        free, number = name, 0
        while hasattr(owner, free):
            number += 1
            free = f"{name}_{number}"
        module.train(owner.training)
        owner.add_module(free, module)
        return f"{owner_path(like)}.{free}".lstrip(".")


def owner_path(node: fx.Node) -> str:
    """Path of the module whose `forward` made a node."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if node.op == "call_module" and stack and stack[-1][0] == node.target:
        stack.pop()
    return str(stack[-1][0]) if stack else ""


def references(node: fx.Node) -> list[fx.Node]:
    """All nodes among the arguments, in order, repeated where they are."""
    found: list[fx.Node] = []

    def note(one: fx.Node) -> fx.Node:
        found.append(one)
        return one

    fx.node.map_arg((node.args, dict(node.kwargs)), note)
    return found


@dataclass
class _Group:
    """Crossings that depend on common nodes."""

    crossings: list[Crossing]
    evaluation: set[fx.Node]
    train: set[fx.Node]


def join_paths(sides: Sides, crossings: Sequence[Crossing]) -> tuple[str | None, str]:
    """Put a `PathByMode` wherever the modes differ: (module to keep whole instead, what could not be joined)."""
    problem = ""
    if not any(node.op == "output" and node in sides.train_of for node in sides.graph.nodes):
        unit = _common([owner_path(node) for node in _other_results(sides)])
        if unit:
            return unit, ""
        problem, sides.returns_other = "it returns something else", True
    for group in _groups(sides, crossings):
        if not _is_joinable(sides, group):
            paths = [owner_path(node) for node in (*group.evaluation, *group.train)]
            paths += [owner_path(crossing.user) for crossing in group.crossings]
            common = _common(paths)
            if common:
                return common, ""
            sides.returns_other |= bool(group.crossings) and all(c.user.op == "output" for c in group.crossings)
            first = min(group.train, key=sides.train_order.__getitem__, default=None)
            problem = f"such as {first.target}" if first is not None else "a part of the model is left out"
        else:
            _join(sides, group)
    return None, problem


def _other_results(sides: Sides) -> list[fx.Node]:
    """What the model returns in one mode only."""
    graphs = ((sides.graph, sides.train_of), (sides.in_training, sides.twin_of))
    outputs = [(node, known) for graph, known in graphs for node in graph.nodes if node.op == "output"]
    return [one for node, known in outputs for one in references(node) if one not in known]


def _groups(sides: Sides, crossings: Sequence[Crossing]) -> list[_Group]:
    groups = [
        _Group([crossing], _upstream(crossing.evaluation, sides.train_of), _upstream(crossing.train, sides.twin_of))
        for crossing in crossings
    ]
    for nodes, known in ((sides.in_training.nodes, sides.twin_of), (sides.graph.nodes, sides.train_of)):
        for node in nodes:
            if node not in known and is_in_place(node) and not is_counter(node):
                found = {node, *(n for before in node.all_input_nodes for n in _upstream(before, known))}
                groups.append(_Group([], set(), found) if known is sides.twin_of else _Group([], found, set()))
    merged: list[_Group] = []
    for group in groups:
        for other in [o for o in merged if _touch(o, group)]:
            merged.remove(other)
            group = _Group(
                other.crossings + group.crossings, other.evaluation | group.evaluation, other.train | group.train
            )
        merged.append(group)
    return merged


def _touch(left: _Group, right: _Group) -> bool:
    if left.evaluation & right.evaluation or left.train & right.train:
        return True
    pairs = {(c.evaluation, c.train) for c in left.crossings}
    return any((c.evaluation, c.train) in pairs for c in right.crossings)


def _upstream(node: fx.Node, known: Mapping[fx.Node, fx.Node]) -> set[fx.Node]:
    """The nodes that only this mode has and that `node` needs, itself among them; parameters are inputs."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one not in known and one not in found and one.op not in ("get_attr", "placeholder"):
            found.add(one)
            waiting.extend(one.all_input_nodes)
    return found


def _is_joinable(sides: Sides, group: _Group) -> bool:
    for node in (*group.evaluation, *group.train):
        if node.op == "output" or (node.op == "call_function" and node.target in (ENTER_AUTOCAST, LEAVE_AUTOCAST)):
            return False
        if node.op == "call_module":
            try:
                module = sides.root.get_submodule(str(node.target))
            except AttributeError:
                return False
            if next(module.parameters(), None) is not None or next(module.buffers(), None) is not None:
                return False
    return True


def _common(paths: Sequence[str]) -> str:
    """The innermost module around all of these."""
    parts = [path.split(".") if path else [] for path in paths]
    shared: list[str] = []
    for level in zip(*parts):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)


def _join(sides: Sides, group: _Group) -> None:
    graph = sides.graph
    results = list(dict.fromkeys((c.evaluation, c.train) for c in group.crossings))
    train_nodes = sorted(group.train, key=sides.train_order.__getitem__)
    nodes = sorted(group.evaluation, key=sides.order.__getitem__)
    like = (train_nodes or nodes or [group.crossings[0].user])[0]
    place = _place(sides, group, train_nodes, nodes)
    inputs: dict[fx.Node, fx.Node] = {}  # of either graph -> of the eval graph
    with graph.inserting_before(place):
        needed = [n for node in (*nodes, *train_nodes) for n in node.all_input_nodes]
        needed += [n for pair in results for n in pair]
        for node in needed:
            if node in group.evaluation or node in group.train or node in inputs:
                continue
            if node in sides.order or node in sides.twin_of:
                inputs[node] = sides.twin_of.get(node, node)
            else:
                inputs[node] = _attribute(sides, node)
    order = list(dict.fromkeys(inputs.values()))
    for node in order:
        if node.op == "get_attr" and sides.order.get(node, -1) > sides.order.get(place, -1):
            place.prepend(node)
    evaluation = _body(sides, nodes, inputs, order, [left for left, _ in results]) if nodes else None
    train = None
    if train_nodes or evaluation is None:
        train = _body(sides, train_nodes, inputs, order, [right for _, right in results])
    passed = (
        [left if evaluation is None else right for left, right in results]
        if train is None or evaluation is None
        else []
    )
    passes = [order.index(inputs[node]) for node in passed]
    unit = PathByMode(train, evaluation, passes, False)
    if all(node.target in _PASSING for node in nodes) and results:
        sources = [_source(left, group.evaluation) for left, _ in results]
        unit.passes = tuple(order.index(inputs[node]) for node in sources)
        unit.keeps_channels = takes_any_width(unit, order)
        unit.passes = unit.passes if evaluation is None or train is None else ()
    with graph.inserting_before(place):
        call = graph.call_module(sides.add_module("path_by_mode", unit, like), tuple(order))
        values = [left.meta["value"] for left, _ in results]
        call.meta["value"] = values[0] if len(values) == 1 else tuple(values)
        if any(is_in_place(node) for node in (*nodes, *train_nodes)) or not results:
            call.meta["writes"] = True
        outputs = [call] if len(results) == 1 else []
        for i, value in enumerate(values if len(results) != 1 else []):
            outputs.append(graph.call_function(_item, (call, i)))
            outputs[-1].meta["value"] = value
    for crossing in group.crossings:
        _replace_reference(crossing.user, crossing.index, outputs[results.index((crossing.evaluation, crossing.train))])
    for node in reversed(nodes):
        if not node.users:
            graph.erase_node(node)


def _item(results: Any, index: int) -> Any:
    return results[index]


def _source(node: fx.Node, group: set[fx.Node]) -> fx.Node:
    while node in group:
        node = node.all_input_nodes[0]
    return node


def _place(sides: Sides, group: _Group, train_nodes: list[fx.Node], nodes: list[fx.Node]) -> fx.Node:
    users = [c.user for c in group.crossings]
    first = min(users, key=sides.order.__getitem__) if users else None
    if train_nodes:
        anchor = sides.anchor_after(train_nodes[-1])
        given = [n for n in (*nodes, *(c.evaluation for c in group.crossings)) if n in sides.order]
        if first is None or all(sides.order[n] < sides.order[anchor] for n in given):
            return anchor
    return first if first is not None else nodes[-1].next


def _attribute(sides: Sides, node: fx.Node) -> fx.Node:
    """A parameter, or a constant of the train graph, as a node of the eval graph."""
    target = str(node.target)
    if target in sides.constants and not sides.is_same_constant(node):
        target = f"{target}_in_training"
        setattr(sides.root, target, sides.constants[str(node.target)])
    made = sides.graph.get_attr(target)
    made.meta["value"] = node.meta["value"]
    return made


def _body(
    sides: Sides,
    nodes: Sequence[fx.Node],
    inputs: Mapping[fx.Node, fx.Node],
    order: list[fx.Node],
    results: list[fx.Node],
) -> fx.GraphModule:
    graph = fx.Graph()
    given = {node: graph.placeholder(f"input_{i}") for i, node in enumerate(order)}
    env = {node: given[of] for node, of in inputs.items()}
    objects: dict[str, Any] = {}
    for node in nodes:
        if is_check(node):
            continue
        env[node] = graph.node_copy(node, lambda n: env[n])
        if node.op == "call_module":
            objects[str(node.target)] = sides.root.get_submodule(str(node.target))
    graph.output(tuple(env[node] for node in results))
    graph._tracer_cls = loading_tracer(sides.root, graph)
    return fx.GraphModule(objects, graph, "Path")


def _replace_reference(user: fx.Node, index: int, by: fx.Node) -> None:
    counter: Iterator[int] = iter(range(1 << 30))
    swap = lambda n: by if next(counter) == index else n  # noqa: E731
    args, kwargs = fx.node.map_arg((user.args, dict(user.kwargs)), swap)
    user.args, user.kwargs = args, kwargs
