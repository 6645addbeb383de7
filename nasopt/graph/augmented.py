"""Augmented assignments, `y += 1` on a tensor: plain arithmetic where nobody can tell, in place where another name sees it.

Python changes the tensor itself, so that other names of it, views of it, and who handed it in see the new values. A graph of
plain arithmetic is cheaper to search, to price and to export: an addition stays one wherever nobody reads the tensor under
another name afterwards.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from nasopt.graph.edit import read_what_was_written
from nasopt.graph.sharing import sharing
from nasopt.graph.values import UNKNOWN

# `node.meta[ASSIGNS]` is the operator that a node of plain arithmetic was written as.
ASSIGNS = "assigns"
# Tensors have no `@=`: Python takes `@` there.
_PLAIN: dict[Callable[..., Any], Callable[..., Any]] = {
    getattr(operator, f"i{name}"): getattr(operator, f"{name}_" if name in ("and", "or") else name)
    for name in "add sub mul truediv floordiv mod pow and or xor lshift rshift".split()  # noqa: SIM905
}


def augmented_methods() -> dict[str, Callable[[Any, Any], Any]]:
    """`__iadd__` and its like for proxies: they write plain arithmetic, and note what was asked for."""

    def method(assigns: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def assign(proxy: Any, other: Any) -> Any:
            if proxy.value is not UNKNOWN and not isinstance(proxy.value, torch.Tensor):
                return NotImplemented  # sizes are numbers
            source = proxy.node
            result = proxy.tracer.create_proxy("call_function", _PLAIN[assigns], (proxy, other), {})
            node = result.node
            # What a region without gradients makes is detached.
            is_detached = node.op == "call_method" and node.args[0] is not source
            (node.args[0] if is_detached else node).meta.update({ASSIGNS: assigns, "is_detached": is_detached})
            return result

        return assign

    return {f"__{assigns.__name__}__": method(assigns) for assigns in _PLAIN}


def settle(root: nn.Module, graph: fx.Graph) -> None:
    """Decide for every augmented assignment of a traced graph of `root`; what reads the tensor later reads its result."""
    read_what_was_written(graph)
    place = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if ASSIGNS not in node.meta:
            continue
        assigns, source = node.meta.pop(ASSIGNS), node.args[0]
        is_detached = node.meta.pop("is_detached")
        if source.meta["value"] is UNKNOWN:  # perhaps a number: the operator itself knows
            _write_in_place(node, assigns, is_detached)
            continue
        result = next(iter(node.users)) if is_detached else node
        for user in list(source.users):
            if place.get(user, -1) > place[node]:
                user.replace_input_with(source, result)
        operands = (arg.meta["value"] if isinstance(arg, fx.Node) else arg for arg in node.args)
        is_plain = torch.result_type(*operands) == source.meta["value"].dtype
        if not is_plain or is_seen_elsewhere(root, node, source, place):
            _write_in_place(node, assigns, is_detached)


def is_seen_elsewhere(root: nn.Module, node: fx.Node, source: fx.Node, place: dict[fx.Node, int]) -> bool:
    """Whether what `node` does to the tensor `source` is seen by readers of other names of it, or outside of the graph."""
    return any(
        other is None or any(place.get(user, -1) > place[node] for user in other.users)
        for other in sharing(root, source, node)
    )


def _write_in_place(node: fx.Node, assigns: Callable[..., Any], is_detached: bool) -> None:
    source: Any = node.args[0]
    node.target = assigns
    node.meta.update({"writes": True, "value": source.meta["value"]})
    if is_detached:  # what a region without gradients writes is not recorded
        with node.graph.inserting_before(node):
            detached = node.graph.call_method("detach", (source,))
        detached.meta["value"] = source.meta["value"]
        node.replace_input_with(source, detached)
