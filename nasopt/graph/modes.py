"""What differs between train and eval mode? Two traces of one model are laid side by side."""

from __future__ import annotations

import difflib
import warnings
from typing import Any

from torch import fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from nasopt.errors import TraceWarning
from nasopt.nn import ByMode

_DROPOUTS = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


def follow_mode(root: nn.Module, graph: fx.Graph, in_training: fx.Graph | None, model_name: str) -> None:
    """Make `graph`, traced in eval mode, follow the mode of `root` where `in_training` differs from it.

    Functional dropout becomes a module, any other constant a call of `ByMode`; counters that only train mode advances
    (`num_batches_tracked.add_(1)`) advance by zero in eval mode. Where the graphs differ in other nodes, the eval path is
    kept and a `TraceWarning` says so.
    """
    nodes = list(graph.nodes)
    twins = _align(nodes, list(in_training.nodes)) if in_training is not None else None
    if twins is None:
        warnings.warn(
            f"{model_name}.forward takes another path in train mode than in eval mode (an auxiliary head, a branch on "
            "self.training): the search follows the eval path in both modes. A branch that must be kept can be moved "
            "into a module named in leaf_modules=",
            TraceWarning,
            stacklevel=2,
        )
        return
    position = {node: i for i, node in enumerate(nodes)}
    twin_position = {twin: position[node] for twin, node in twins.items() if node is not None}
    # All of it before the first change: a replaced node has no position.
    constants = {
        twin: (_constants(node, position), _constants(twin, twin_position))
        for twin, node in twins.items()
        if node is not None
    }
    last = nodes[0]
    for twin, node in twins.items():
        if node is None:
            last = _insert_counter(root, graph, last, twin)
            continue
        last = node
        evaluation, train = constants[twin]
        if evaluation == train:
            continue
        if node.op == "call_function" and node.target in _DROPOUTS:
            last = _to_dropout_module(root, graph, node)
        else:
            _insert_by_mode(root, graph, node, twin, [a != b for a, b in zip(evaluation, train)])


def _align(nodes: list[fx.Node], others: list[fx.Node]) -> dict[fx.Node, fx.Node | None] | None:
    """Node of `nodes` for every one of `others`, None for a counter that stands in `others` only; None if they differ."""
    keys, other_keys = ([(n.op, n.target) for n in side] for side in (nodes, others))
    twins: dict[fx.Node, fx.Node | None] = {}
    for kind, a, a_end, b, b_end in difflib.SequenceMatcher(None, keys, other_keys, autojunk=False).get_opcodes():
        if kind == "equal":
            twins.update(zip(others[b:b_end], nodes[a:a_end]))
        elif kind == "insert" and all(_is_counter(node) for node in others[b:b_end]):
            twins.update({node: None for node in others[b:b_end] if node.op == "call_method"})
        else:
            return None
    position = {node: i for i, node in enumerate(nodes)}
    twin_position = {twin: position[node] for twin, node in twins.items() if node is not None}
    pairs = [(node, twin) for twin, node in twins.items() if node is not None]
    same = (_shape_of(node, position) == _shape_of(twin, twin_position) for node, twin in pairs)
    return twins if all(same) else None


def _shape_of(node: fx.Node, position: dict[fx.Node, int]) -> list[Any]:
    """Number of arguments, and which of them are other nodes; constants may differ."""
    return [leaf if isinstance(leaf, tuple) and leaf[:1] == ("node",) else None for leaf in _constants(node, position)]


def _is_counter(node: fx.Node) -> bool:
    """A buffer that is read to be advanced, or its advance by a number whose result nobody uses."""
    if node.op == "get_attr":
        return all(_is_counter(user) for user in node.users)
    amount = node.args[1] if len(node.args) == 2 else None
    source = node.args[0] if node.args else None
    counts = node.op == "call_method" and node.target == "add_" and isinstance(amount, (int, float)) and not node.users
    return counts and isinstance(source, fx.Node) and source.op == "get_attr"


def _insert_counter(root: nn.Module, graph: fx.Graph, after: fx.Node, twin: fx.Node) -> fx.Node:
    buffer, amount = twin.args
    assert isinstance(buffer, fx.Node)
    with graph.inserting_after(after):
        attribute = graph.get_attr(str(buffer.target))
    with graph.inserting_after(attribute):
        choice = graph.call_module(add_module(root, "by_mode", ByMode(amount, 0)))
    with graph.inserting_after(choice):
        advance = graph.call_method("add_", (attribute, choice))
    attribute.meta["value"] = advance.meta["value"] = buffer.meta["value"]
    choice.meta["value"] = 0
    return advance


def _flat_arguments(node: fx.Node) -> tuple[list[Any], Any]:
    return pytree.tree_flatten((node.args, dict(node.kwargs)), is_leaf=lambda x: isinstance(x, slice))


def _constants(node: fx.Node, position: dict[fx.Node, int]) -> list[Any]:
    """Flat arguments of a node; other nodes are named by their position."""
    leaves, _ = _flat_arguments(node)
    return [_by_position(leaf, position) for leaf in leaves]


def _by_position(leaf: Any, position: dict[fx.Node, int]) -> Any:
    if isinstance(leaf, slice):
        return ("slice", *(_by_position(bound, position) for bound in (leaf.start, leaf.stop, leaf.step)))
    return ("node", position.get(leaf)) if isinstance(leaf, fx.Node) else leaf


def add_module(root: nn.Module, name: str, module: nn.Module) -> str:
    """Add a submodule under a name that is still free; returns the name."""
    free, number = name, 0
    while hasattr(root, free):
        number += 1
        free = f"{name}_{number}"
    root.add_module(free, module)
    return free


def _to_dropout_module(root: nn.Module, graph: fx.Graph, node: fx.Node) -> fx.Node:
    given: dict[str, Any] = dict(zip(("input", "p", "training", "inplace"), node.args)) | dict(node.kwargs)
    layer = _DROPOUTS[node.target](p=given.get("p", 0.5), inplace=given.get("inplace", False))  # type: ignore[index]
    with graph.inserting_before(node):
        name = add_module(root, str(node.name), layer)
        replacement = graph.call_module(name, (given["input"],))
    replacement.meta = dict(node.meta)
    node.replace_all_uses_with(replacement)
    graph.erase_node(node)
    return replacement


def _insert_by_mode(root: nn.Module, graph: fx.Graph, node: fx.Node, in_training: fx.Node, differs: list[bool]) -> None:
    leaves, spec = _flat_arguments(node)
    other_leaves, _ = _flat_arguments(in_training)
    with graph.inserting_before(node):
        for i, (off, on) in enumerate(zip(list(leaves), other_leaves)):
            if differs[i]:
                choice = graph.call_module(add_module(root, "by_mode", ByMode(on, off)))
                choice.meta["value"] = off
                leaves[i] = choice
    node.args, node.kwargs = pytree.tree_unflatten(leaves, spec)
