"""Who shares memory with whom: which results of a graph may be their input itself, or lie in its memory."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import fx, nn

from nasopt.graph.branches.markers import Alternatives
from nasopt.graph.edit import is_in_place, written_by_name
from nasopt.graph.registry import find_rule

# Their results may be an argument or lie in its memory, which torch's schemas do not say of them.
_SHARES = (
    "getitem __getitem__ getattr einsum as_tensor asarray broadcast_tensors meshgrid atleast_1d atleast_2d atleast_3d"
)
_COPIES = ("clone", "copy", "deepcopy")
_SPLITS = ("chunk", "split", "unbind", "tensor_split", "split_with_sizes", "hsplit", "vsplit", "dsplit")


def is_changed_in_place(root: nn.Module, node: fx.Node) -> bool:
    """Whether some reader writes over the result of a node, or over what shares its memory."""
    return any(
        _writes(user, node) or (may_share(root, user) and is_changed_in_place(root, user)) for user in node.users
    )


def _writes(user: fx.Node, node: fx.Node) -> bool:
    return is_in_place(user) and (not written_by_name(user) or user.args[:1] == (node,))


def sharing(root: nn.Module, source: fx.Node, without: fx.Node) -> Iterator[fx.Node | None]:
    """Nodes that may hold memory of `source`, itself among them, `without` what one of its readers makes of it.

    None: the memory is not the graph's own.
    """
    above, waiting, seen = [source], [source], {source, without}
    parts: dict[Any, Any] = {}  # split tensor -> the only part that is of interest
    while waiting:
        node = waiting.pop()
        if node.op in ("placeholder", "get_attr"):
            yield None
        elif node.op.startswith("call_") and may_share(root, node):
            if node.target is operator.getitem and _name(node.args[0]) in _SPLITS:
                parts[node.args[0]] = node.args[1]
            new = [before for before in node.all_input_nodes if before not in seen]
            seen.update(new)
            above += new
            waiting += new
    waiting = above
    while waiting:
        node = waiting.pop()
        yield node
        for user in node.users:
            is_other_part = node in parts and user.target is operator.getitem and user.args[1] != parts[node]
            if user not in seen and not is_other_part and user.op != "output" and may_share(root, user):
                seen.add(user)
                waiting.append(user)


def _name(node: Any) -> str:
    return str(getattr(node.target, "__name__", node.target))


def may_share(root: nn.Module, node: fx.Node) -> bool:
    """Whether the result of a node may be one of its inputs, or lie in its memory."""
    if is_in_place(node):
        return True
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        if isinstance(
            module, Alternatives
        ):  # mixes into a new tensor, and an exported identity is copied where that matters
            return False
        entry = find_rule(node, module)
        is_view = entry.memory == "view" if entry is not None else not type(module).__module__.startswith("torch.nn.")
        return is_view or bool(getattr(module, "inplace", False))
    name, entry = _name(node), find_rule(node, None)
    if name in _COPIES:
        return False
    if name in _SHARES.split() or (entry is not None and entry.memory == "view"):
        return True
    owner = str(getattr(node.target, "__module__", "") or "")
    is_torchs = node.op == "call_method" or owner.startswith("torch") or owner in ("_operator", "builtins", "math")
    return not is_torchs or _is_view_by_schema(name)


@cache
def _is_view_by_schema(name: str) -> bool:
    """Whether torch's operator of this name says that its result lies in the memory of an argument."""
    packet = getattr(torch.ops.aten, name, None)
    overloads = [getattr(packet, overload) for overload in packet.overloads()] if packet is not None else []
    returns = (given.alias_info for one in overloads for given in one._schema.returns)
    return any(alias is not None and not alias.is_write for alias in returns)
