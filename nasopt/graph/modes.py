"""What differs between train and eval mode? Two traces of one model are laid side by side."""

from __future__ import annotations

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
    """Make `graph`, traced in eval mode, follow the mode of `root` where `in_training` holds other constants.

    Functional dropout becomes a module; any other constant becomes a call of `ByMode`. Where the graphs differ in their
    nodes, the eval path is kept and a `TraceWarning` says so.
    """
    nodes = list(graph.nodes)
    others = list(in_training.nodes) if in_training is not None else []
    position = {node: i for i, node in enumerate(nodes)}
    other_position = {node: i for i, node in enumerate(others)}
    leaves = [_constants(node, position) for node in nodes]
    other_leaves = [_constants(node, other_position) for node in others]
    if not _same_structure(nodes, others) or [len(x) for x in leaves] != [len(x) for x in other_leaves]:
        warnings.warn(
            f"{model_name}.forward takes another path in train mode than in eval mode (an auxiliary head, a branch on "
            "self.training): the search follows the eval path in both modes. A branch that must be kept can be moved "
            "into a module named in leaf_modules=",
            TraceWarning,
            stacklevel=2,
        )
        return
    for node, other, evaluation, train in zip(nodes, others, leaves, other_leaves):
        if evaluation == train:
            continue
        if node.op == "call_function" and node.target in _DROPOUTS:
            _to_dropout_module(root, graph, node)
        else:
            _insert_by_mode(root, graph, node, other, [a != b for a, b in zip(evaluation, train)])


def _flat_arguments(node: fx.Node) -> tuple[list[Any], Any]:
    return pytree.tree_flatten((node.args, dict(node.kwargs)), is_leaf=lambda x: isinstance(x, slice))


def _constants(node: fx.Node, position: dict[fx.Node, int]) -> list[Any]:
    """Flat arguments of a node; other nodes are named by their position."""
    leaves, _ = _flat_arguments(node)
    return [_by_position(leaf, position) for leaf in leaves]


def _by_position(leaf: Any, position: dict[fx.Node, int]) -> Any:
    if isinstance(leaf, slice):
        return ("slice", *(_by_position(bound, position) for bound in (leaf.start, leaf.stop, leaf.step)))
    return ("node", position[leaf]) if isinstance(leaf, fx.Node) else leaf


def _same_structure(nodes: list[fx.Node], others: list[fx.Node]) -> bool:
    return [(n.op, n.target) for n in nodes] == [(n.op, n.target) for n in others]


def add_module(root: nn.Module, name: str, module: nn.Module) -> str:
    """Add a submodule under a name that is still free; returns the name."""
    free, number = name, 0
    while hasattr(root, free):
        number += 1
        free = f"{name}_{number}"
    root.add_module(free, module)
    return free


def _to_dropout_module(root: nn.Module, graph: fx.Graph, node: fx.Node) -> None:
    given: dict[str, Any] = dict(zip(("input", "p", "training", "inplace"), node.args)) | dict(node.kwargs)
    layer = _DROPOUTS[node.target](p=given.get("p", 0.5), inplace=given.get("inplace", False))  # type: ignore[index]
    with graph.inserting_before(node):
        name = add_module(root, str(node.name), layer)
        replacement = graph.call_module(name, (given["input"],))
    replacement.meta = dict(node.meta)
    node.replace_all_uses_with(replacement)
    graph.erase_node(node)


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
