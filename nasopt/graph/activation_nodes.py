"""Which nodes of a traced graph hold activations: floats that depend on more of the inputs than their shapes."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from nasopt.graph.edit import is_in_place
from nasopt.graph.sharing import sharing


def functions(names: str, methods: bool = True) -> set[Any]:
    """Functions, operators and methods of these names, and what does the same in place, under the name with `_`."""
    found: set[Any] = set()
    for name in [form for one in names.split() for form in (one, f"{one}_")]:
        found |= {getattr(owner, name) for owner in (torch, F, operator) if hasattr(owner, name)}
        if methods and hasattr(Tensor, name):
            found.add(name)
    return found


# Of their second argument, or of their only one, these take the shape alone.
_LIKE = functions("expand_as view_as reshape_as type_as")
_MADE = functions("zeros_like ones_like full_like new_zeros new_ones new_full")


def activation_nodes(module: fx.GraphModule) -> set[fx.Node]:
    """Nodes whose values hold floats that depend on inputs of the model, on more than their shapes; `meta["value"]` is set."""
    depends: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder" or any(one in depends and holds_tensors(one) for one in values_read(node)):
            depends.add(node)
            first = node.args[0] if node.args else None
            if is_in_place(node) and isinstance(first, fx.Node):  # so does all that lies in the memory that it writes
                depends.update(one for one in sharing(module, first, node) if one is not None)
    return {node for node in depends if node.op != "output" and holds_floats(node)}


def values_read(node: fx.Node) -> list[fx.Node]:
    """Inputs of a call of which it takes more than the shape."""
    if node.op == "call_module" or node.target not in _LIKE | _MADE:
        return node.all_input_nodes
    return [] if node.target in _MADE else [one for one in node.args[:1] if isinstance(one, fx.Node)]


def activations_in(node: fx.Node, activations: set[fx.Node]) -> list[fx.Node]:
    """Inputs of a call that hold activations: tensors of floats that depend on inputs of the model."""
    return [one for one in values_read(node) if one in activations]


def holds_tensors(node: fx.Node) -> bool:
    """Whether the value of a node is a tensor, or holds some."""
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(node.meta.get("value")))


def holds_floats(node: fx.Node) -> bool:
    """Whether the value of a node is a floating-point tensor, or holds some."""
    leaves = pytree.tree_leaves(node.meta.get("value"))
    return any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves)
