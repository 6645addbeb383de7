"""What differs between train and eval mode: two traces of one model, laid side by side and made one graph."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from nasopt.errors import TraceWarning
from nasopt.graph.edit import is_counter
from nasopt.graph.mode_paths import Crossing, Sides, join_paths, references
from nasopt.nn import ByMode

_DROPOUTS = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


@dataclass(frozen=True)
class ModeResult:
    """What became of a graph that should follow the mode.

    Attributes:
        unit: path of a module to keep whole, because its two paths cannot be joined: then trace again. None: all is done.
        returns_other: whether the model returns something else in train mode, where the graph returns what it does in eval mode.
    """

    unit: str | None
    returns_other: bool


def follow_mode(
    root: nn.Module, graph: fx.Graph, in_training: fx.Graph | None, constants: Mapping[str, Tensor], model_name: str
) -> ModeResult:
    """Make `graph`, traced in eval mode, follow the mode of `root` where `in_training` differs from it.

    Functional dropout becomes a module, any other constant a call of `ByMode`; counters that only train mode advances
    (`num_batches_tracked.add_(1)`) advance by zero in eval mode. Other nodes become calls of `PathByMode`.

    Args:
        root: the model, with the modules and constants that the eval trace has made.
        graph: the trace in eval mode; changed.
        in_training: the trace in train mode, None where there is none.
        constants: tensors that the trace in train mode has made.
        model_name: for the warning.

    A `TraceWarning` says where the eval path had to be kept.
    """
    if in_training is None:
        _warn(model_name, "cannot be traced in train mode")
        return ModeResult(None, False)
    sides = Sides(root, graph, in_training, constants)
    _align(sides)
    crossings = [
        Crossing(node, i, left, right)
        for node, twin in sides.pairs()
        for i, (left, right) in enumerate(zip(references(node), references(twin)))
        if sides.twin_of.get(right) is not left
    ]
    unit, problem = join_paths(sides, crossings)
    if unit:
        return ModeResult(unit, False)
    if problem:
        _warn(model_name, f"takes another path in train mode than in eval mode ({problem})")
    for node, twin in sides.pairs():
        if twin.meta.get("writes"):
            node.meta["writes"] = True
    _follow_constants(sides)
    return ModeResult(None, sides.returns_other)


def _warn(model_name: str, what: str) -> None:
    warnings.warn(
        f"{model_name}.forward {what}: the search follows the eval path in both modes there. A branch that must be kept "
        "can be moved into a module named in leaf_modules=",
        TraceWarning,
        stacklevel=2,
    )


def _align(sides: Sides) -> None:
    """Find the pairs of nodes that do the same in both modes, up to constants and to where their inputs come from."""
    nodes, others = list(sides.graph.nodes), list(sides.in_training.nodes)
    keys, other_keys = ([(n.op, n.target) for n in side] for side in (nodes, others))
    for _, a, a_end, b, b_end in difflib.SequenceMatcher(None, keys, other_keys, autojunk=False).get_opcodes():
        if a_end - a == b_end - b and keys[a:a_end] == other_keys[b:b_end]:
            for node, twin in zip(nodes[a:a_end], others[b:b_end]):
                if _skeleton(node) == _skeleton(twin) and sides.is_same_constant(node):
                    sides.match(node, twin)


def _skeleton(node: fx.Node) -> list[Any]:
    """Which arguments are nodes; constants may differ."""
    leaves, spec = _flat_arguments(node)
    return [spec, *(_kind(leaf) for leaf in leaves)]


def _kind(leaf: Any) -> Any:
    if isinstance(leaf, slice):
        return tuple(_kind(bound) for bound in (leaf.start, leaf.stop, leaf.step))
    return isinstance(leaf, fx.Node)


def _follow_constants(sides: Sides) -> None:
    """Constants that differ, and counters that only train mode advances."""
    differ = [(node, _constants(node), _constants(twin)) for node, twin in sides.pairs()]
    for node, evaluation, train in differ:
        if evaluation == train:
            continue
        if node.op == "call_function" and node.target in _DROPOUTS:
            _to_dropout_module(sides, node)
        else:
            _insert_by_mode(sides, node, [off != on for off, on in zip(evaluation, train)], train)
    for twin in list(sides.in_training.nodes):
        if twin not in sides.twin_of and is_counter(twin):
            _insert_counter(sides, twin)


def _insert_counter(sides: Sides, twin: fx.Node) -> None:
    buffer, amount = twin.args
    assert isinstance(buffer, fx.Node)
    graph = sides.graph
    with graph.inserting_before(sides.anchor_after(twin)):
        attribute = graph.get_attr(str(buffer.target))
        choice = graph.call_module(sides.add_module("by_mode", ByMode(amount, 0), twin))
        advance = graph.call_method("add_", (attribute, choice))
    attribute.meta["value"] = advance.meta["value"] = buffer.meta["value"]
    choice.meta["value"] = 0


def _flat_arguments(node: fx.Node) -> tuple[list[Any], Any]:
    return pytree.tree_flatten((node.args, dict(node.kwargs)), is_leaf=lambda x: isinstance(x, slice))


def _constants(node: fx.Node) -> list[Any]:
    """Flat arguments of a node; other nodes are all alike."""
    leaves, _ = _flat_arguments(node)
    return [_without_nodes(leaf) for leaf in leaves]


def _without_nodes(leaf: Any) -> Any:
    if isinstance(leaf, slice):
        return ("slice", *(_without_nodes(bound) for bound in (leaf.start, leaf.stop, leaf.step)))
    return fx.Node if isinstance(leaf, fx.Node) else leaf


def _to_dropout_module(sides: Sides, node: fx.Node) -> None:
    given: dict[str, Any] = dict(zip(("input", "p", "training", "inplace"), node.args)) | dict(node.kwargs)
    layer = _DROPOUTS[node.target](p=given.get("p", 0.5), inplace=given.get("inplace", False))  # type: ignore[index]
    with sides.graph.inserting_before(node):
        replacement = sides.graph.call_module(sides.add_module(str(node.name), layer, node), (given["input"],))
    replacement.meta = dict(node.meta)
    node.replace_all_uses_with(replacement)
    sides.graph.erase_node(node)


def _insert_by_mode(sides: Sides, node: fx.Node, differs: list[bool], train: list[Any]) -> None:
    leaves, spec = _flat_arguments(node)
    twin_leaves, _ = _flat_arguments(sides.train_of[node])
    with sides.graph.inserting_before(node):
        for i, (off, on) in enumerate(zip(list(leaves), twin_leaves)):
            if differs[i]:
                choice = sides.graph.call_module(sides.add_module("by_mode", ByMode(on, off), node))
                choice.meta["value"] = off
                leaves[i] = choice
    node.args, node.kwargs = pytree.tree_unflatten(leaves, spec)
