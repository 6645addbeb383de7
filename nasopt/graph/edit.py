"""Small edits of traced graphs: dead code, unused layers, layers that are merged into their readers."""

from __future__ import annotations

import operator

from torch import fx, nn

_IN_PLACE_OPERATORS = {
    operator.setitem,
    *(
        getattr(operator, f"i{name}")
        for name in ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "matmul"]
    ),
}


def is_in_place(node: fx.Node) -> bool:
    """Whether a node may change one of its inputs, so that it stays even where nobody uses its result."""
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


def remove_dead_code(graph: fx.Graph) -> None:
    """Remove nodes whose result nobody uses, except placeholders, the output, and what works in place."""
    for node in reversed(list(graph.nodes)):
        if node.op not in ("placeholder", "output") and not node.users and not is_in_place(node):
            graph.erase_node(node)


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
