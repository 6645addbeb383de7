"""Execution of a traced network node by node: the value of every node, and one node again with other arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree


def node_values(module: fx.GraphModule, inputs: Sequence[Any]) -> dict[fx.Node, Any]:
    """Values of all nodes, tensors as they were when they were made; `inputs` in the order of the placeholders."""
    given = list(inputs)
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in module.graph.nodes:
            if node.op == "placeholder":
                values[node] = given.pop(0) if given else node.args[0]
            else:
                values[node] = run_node(module, node, values)
    return values


def run_node(module: fx.GraphModule, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """One node with the values of those that it reads; what it changes in place is a copy."""
    args = fx.map_arg(node.args, lambda one: _copied(values[one]))
    kwargs = fx.map_arg(node.kwargs, lambda one: _copied(values[one]))
    if node.op == "output":
        return args[0]  # type: ignore[index]
    if node.op == "get_attr":
        found: Any = module
        for name in str(node.target).split("."):
            found = getattr(found, name)
        return found
    if node.op == "call_module":
        return module.get_submodule(str(node.target))(*args, **kwargs)  # type: ignore[misc]
    if node.op == "call_method":
        first, *rest = args  # type: ignore[misc]
        return getattr(first, str(node.target))(*rest, **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator, misc]


def _copied(value: Any) -> Any:
    return pytree.tree_map_only(Tensor, torch.clone, value)


def layer_of(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The layer that a node calls, None for a function."""
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None
