"""What remains of branches once they are decided? The chosen ones in the graph, under the names that a person would give them."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from nasopt.graph.branches.markers import BranchInput, Choice, is_marker
from nasopt.graph.edit import is_in_place, remove_dead_code
from nasopt.graph.registry import memory_of


def decide(module: fx.GraphModule, decisions: Mapping[str, int]) -> None:
    """Leave in the graph of `module` only the chosen branch of every choice, and no markers.

    Args:
        module: changed in place; its submodules stay.
        decisions: path of every choice -> index of its branch.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if is_marker(module, node, Choice):
            chosen = node.args[decisions[str(node.target)]]
            if entry_of(module, chosen) is not None and is_changed_in_place(module, node):
                # The search model mixes into a new tensor, which may be changed in place; the input itself may not.
                with graph.inserting_before(node):
                    chosen = graph.call_method("clone", (chosen,))
                chosen.meta = dict(node.meta)
            node.replace_all_uses_with(chosen)
            graph.erase_node(node)
    _erase_unused_branches(module, decisions)
    for node in list(graph.nodes):
        if is_marker(module, node, BranchInput):
            # Several inputs come out as a tuple, of which every user picks one.
            for user in list(node.users) if len(node.args) != 1 else ():
                user.replace_all_uses_with(node.args[user.args[1]])  # type: ignore[index, arg-type]
                graph.erase_node(user)
            if len(node.args) == 1:
                node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
            graph.erase_node(node)
    remove_dead_code(graph)


def entry_of(module: fx.GraphModule, node: Any) -> fx.Node | None:
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


def is_changed_in_place(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether some reader writes over the result of a node, or over a view of it."""
    return any(
        is_in_place(user) or (memory_of(module, user) == "view" and is_changed_in_place(module, user))
        for user in node.users
    )


def _erase_unused_branches(module: fx.GraphModule, decisions: Mapping[str, int]) -> None:
    """Also what works in place in them, which dead code removal would keep."""
    dead: set[fx.Node] = set()
    for node in module.graph.nodes:
        if is_marker(module, node, BranchInput):
            marker: Any = module.get_submodule(str(node.target))
            if decisions[marker.choice] != marker.index:
                dead.add(node)
        if any(before in dead for before in node.all_input_nodes) and node.op != "output":
            dead.add(node)
    for node in reversed(list(module.graph.nodes)):
        if node in dead and not node.users:
            module.graph.erase_node(node)


def short_names(module: fx.GraphModule, decisions: Mapping[str, int]) -> fx.GraphModule:
    """The same network, its chosen branches named like the layers that they stand for: `conv.branches.1.0` -> `conv.0`."""

    def short(path: str) -> str:
        for choice, index in sorted(decisions.items(), key=lambda item: -item[0].count(".branches.")):
            start = f"{choice}.branches.{index}"
            if path == start or path.startswith(f"{start}."):
                path = choice + path.removeprefix(start)
        return path

    objects: dict[str, Any] = {}
    modes = {short(name): m.training for name, m in module.named_modules()}
    for node in module.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            found: Any = module
            for atom in str(node.target).split("."):
                found = getattr(found, atom)
            name = short(str(node.target))
            if name != node.target:
                node.target = name
                node._rename(name.replace(".", "_"))
            objects[name] = found
    renamed = fx.GraphModule(objects, module.graph, type(module).__name__)
    renamed.meta = dict(module.meta)
    for name, part in renamed.named_modules():
        if type(part) in (nn.Module, torch.nn.Module) or not name:
            part.training = modes.get(name, module.training)
    return renamed
