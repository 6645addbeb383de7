"""Which nodes of a traced graph hold something for every sample; what is the same for all of them is computed once."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree


def sample_nodes(module: fx.GraphModule) -> set[fx.Node]:
    """Data, sizes of its first dimension, and what is made of these; positions that are made of other sizes are no such nodes."""
    found: set[fx.Node] = set()
    for node in module.graph.nodes:
        # What another tensor gives its type alone is none of that tensor's samples.
        read = node.all_input_nodes[:1] if node.target in ("to", "type_as") else node.all_input_nodes
        if node.op == "placeholder" or (any(one in found for one in read) and _is_of_samples(node)):
            found.add(node)
    return found


def _is_of_samples(node: fx.Node) -> bool:
    """Of a node that reads something of samples."""
    value, first = node.meta.get("value"), node.args[0] if node.args else None
    if _holds_tensors(value) or not isinstance(first, fx.Node):
        return True
    if not isinstance(value, (int, tuple, list)):  # a device, a type
        return False
    given = first.meta.get("value")
    at: Any = node.args[1] if len(node.args) > 1 else None
    if node.target == "size" and at is not None:
        return not isinstance(given, Tensor) or at in (0, -given.dim())
    if node.target is operator.getitem and isinstance(given, (tuple, list)) and not _holds_tensors(given):
        dims = range(len(given))
        return not isinstance(at, (int, slice)) or 0 in (dims[at] if isinstance(at, slice) else (dims[at],))
    return True


def _holds_tensors(value: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))
