"""Small edits of traced graphs: dead code, unused layers, layers that are merged into their readers."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.amp import autocast_mode

_IN_PLACE_OPERATORS = {
    operator.setitem,
    *(
        getattr(operator, f"i{name}")
        for name in ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "matmul"]
    ),
}
# They enter and leave a region of the graph in which other numbers are computed.
ENTER_AUTOCAST, LEAVE_AUTOCAST = autocast_mode._enter_autocast, autocast_mode._exit_autocast


def put_module(model: nn.Module, path: str, layer: nn.Module) -> None:
    """Put a layer in the place of the one at `path`, as `Module.set_submodule` does in torch 2.5 and later."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)


def is_in_place(node: fx.Node) -> bool:
    """Whether a node may change one of its inputs, so that it stays even where nobody uses its result."""
    # Found by running it (`values.Evaluator`): layers that work in place, `out=`, functions that write into an argument.
    return bool(node.meta.get("writes")) or written_by_name(node)


def written_by_name(node: fx.Node) -> bool:
    """Whether name or settings say that a node changes an input, which is its first one."""
    if node.op == "call_method":
        return _ends_in_place(str(node.target)) or node.target == "__setitem__"
    if node.op == "call_function":
        named = _ends_in_place(getattr(node.target, "__name__", ""))
        return node.target in _IN_PLACE_OPERATORS or named or node.kwargs.get("inplace") is True
    if node.op == "call_module" and node.graph.owning_module is not None:
        return bool(getattr(node.graph.owning_module.get_submodule(str(node.target)), "inplace", False))
    return False


def _ends_in_place(name: str) -> bool:
    """Torch's convention: one underscore at the end."""
    return name.endswith("_") and not name.endswith("__")


def is_check(node: fx.Node) -> bool:
    """Whether a node only raises where something does not hold."""
    return node.op == "call_function" and node.target is torch._assert


def _stays(node: fx.Node) -> bool:
    if node.op in ("placeholder", "output") or node.users or is_in_place(node):
        return True
    if is_check(node):
        # In a smaller network sizes of channels are others, and what was asked of them is decided.
        condition = node.args[0]
        return condition.meta.get("value", True) is not False if isinstance(condition, fx.Node) else not condition
    return node.op == "call_function" and node.target in (ENTER_AUTOCAST, LEAVE_AUTOCAST)


def is_counter(node: fx.Node) -> bool:
    """A buffer's advance by a number, whose result nobody uses."""
    amount = node.args[1] if len(node.args) == 2 else None
    source = node.args[0] if node.args else None
    counts = (node.op == "call_method" and node.target == "add_") or getattr(node.target, "__name__", "") == "iadd"
    return (
        counts
        and isinstance(amount, (int, float))
        and not node.users
        and isinstance(source, fx.Node)
        and source.op == "get_attr"
    )


def remove_dead_code(graph: fx.Graph) -> None:
    """Remove nodes whose result nobody uses, except placeholders, the output, and what has an effect."""
    for node in reversed(list(graph.nodes)):
        if not _stays(node):
            graph.erase_node(node)


def changed_parameters(graph: fx.Graph) -> set[str]:
    """Paths of parameters and buffers that `forward` changes in place."""
    paths = set()
    for node in graph.nodes:
        source = node
        while is_in_place(node) and source.all_input_nodes and source.op != "call_module":
            source = source.all_input_nodes[0]
        if source is not node and source.op == "get_attr":
            paths.add(str(source.target))
    return paths


def read_what_was_written(graph: fx.Graph) -> None:
    """Let all that reads a tensor after an operation has changed it in place read the operation's result, the same tensor.

    Without this a value that is put behind the operation is missed by those that read the tensor under its first name.
    """
    position = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if not written_by_name(node) or node.target in (operator.setitem, "__setitem__"):
            continue
        source = node.args[0] if node.args else None
        same = isinstance(source, fx.Node) and _look_alike(source.meta.get("value"), node.meta.get("value"))
        if isinstance(source, fx.Node) and same:
            for user in list(source.users):
                if position[user] > position[node]:
                    user.replace_input_with(source, node)


def _look_alike(one: Any, other: Any) -> bool:
    is_tensor = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    return is_tensor and one.shape == other.shape and one.dtype == other.dtype


def tidy(module: fx.GraphModule) -> None:
    """Drop layers that nobody calls any more, and bring the code up to date."""
    module.delete_all_unused_submodules()
    module.graph.lint()
    module.recompile()


def readers_of(module: fx.GraphModule, layer: type[nn.Module], reader: type[nn.Module]) -> list[str]:
    """Paths of the layers of type `reader` that take the result of a `layer` at every call."""
    calls: dict[str, list[bool]] = {}
    for node in module.graph.nodes:
        if node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), reader):
            before = node.all_input_nodes[0]
            is_layer = before.op == "call_module" and isinstance(module.get_submodule(str(before.target)), layer)
            calls.setdefault(str(node.target), []).append(is_layer)
    return [path for path, follow in calls.items() if all(follow)]


def merge_into_readers(module: fx.GraphModule, layer: type[nn.Module], reader: type[nn.Module]) -> None:
    """Take every `layer` out of the graph whose result only layers of type `reader` see: they do its work themselves."""
    for node in list(module.graph.nodes):
        if node.op != "call_module" or not isinstance(module.get_submodule(str(node.target)), layer):
            continue
        users = [user for user in node.users if user.op == "call_module"]
        if len(users) == len(node.users) and all(
            isinstance(module.get_submodule(str(user.target)), reader) for user in users
        ):
            node.replace_all_uses_with(node.all_input_nodes[0])
            module.graph.erase_node(node)
    tidy(module)


def add_submodule(root: nn.Module, path: str, module: nn.Module) -> None:
    """Add a module under a path whose parent exists."""
    parent, _, name = path.rpartition(".")
    root.get_submodule(parent).add_module(name, module)
