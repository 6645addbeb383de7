"""How does a graph come back from a pickle? torch.fx writes its code, and traces that code when it is loaded."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

# Called with a proxy as their first size these fail in torch's argument parser, before the proxy is asked.
CONSTRUCTORS = ("zeros", "ones", "empty", "rand", "randn")


class _AssignableProxy(fx.Proxy):
    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


class LoadingTracer(fx.Tracer):
    """Reads a graph back from its code when it is unpickled, with what torch's own tracer refuses or computes at once:

    tensors made of sizes, assignments, and computations on buffers.
    """

    proxy_buffer_attributes = True

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        originals = {name: getattr(torch, name) for name in CONSTRUCTORS}
        try:
            for name, function in originals.items():
                vars(torch)[name] = self._symbolic(function)
            return super().trace(root, concrete_args)
        finally:
            vars(torch).update(originals)

    def _symbolic(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def constructor(*args: Any, **kwargs: Any) -> Any:
            if any(isinstance(leaf, fx.Proxy) for leaf in pytree.tree_leaves((args, kwargs))):
                return self.create_proxy("call_function", function, args, kwargs)
            return function(*args, **kwargs)

        return constructor

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _AssignableProxy(node, self)


def loading_tracer(root: nn.Module, graph: fx.Graph) -> type[fx.Tracer] | None:
    """The tracer of torch where it will do, so that an exported network can be loaded without nasopt."""
    parameters = {name for name, _ in root.named_parameters(remove_duplicate=False)}
    special = {operator.setitem, *(getattr(torch, name) for name in CONSTRUCTORS)}
    needs_own = any(
        node.target in special
        if node.op == "call_function"
        else node.op == "get_attr" and node.target not in parameters
        for node in graph.nodes
    )
    return LoadingTracer if needs_own else None
