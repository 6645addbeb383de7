"""Which nodes can go? Those whose result nobody uses, unless they work in place."""

from __future__ import annotations

import operator

from torch import fx

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
