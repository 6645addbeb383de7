"""Graphs that come back from a pickle: torch.fx writes their code, and traces that code when it is loaded."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.amp import autocast_mode
from torch.utils import _pytree as pytree

# Called with a proxy as their first size these fail in torch's argument parser, before the proxy is asked.
CONSTRUCTORS = [
    *("zeros", "ones", "empty", "full", "rand", "randn", "randint", "randperm", "normal"),
    *("eye", "arange", "linspace", "logspace", "tril_indices", "triu_indices"),
]
_REGIONS = ("_enter_autocast", "_exit_autocast")
_ROUNDING: dict[Any, str] = {
    round: "__round__",
    math.ceil: "__ceil__",
    math.floor: "__floor__",
    math.trunc: "__trunc__",
}


class _AssignableProxy(fx.Proxy):
    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


def _rounding(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *digits: self.tracer.create_proxy("call_function", function, (self, *digits), {})


for _function, _name in _ROUNDING.items():
    setattr(_AssignableProxy, _name, _rounding(_function))


class LoadingTracer(fx.Tracer):
    """Reads a graph back from its code when it is unpickled, with what torch's own tracer refuses or computes at once:

    tensors made of sizes, random numbers, assignments, regions, and computations on buffers.
    """

    proxy_buffer_attributes = True

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        originals = [(vars(torch), name, getattr(torch, name)) for name in CONSTRUCTORS]
        originals += [(vars(autocast_mode), name, getattr(autocast_mode, name)) for name in _REGIONS]
        try:
            for namespace, name, function in originals:
                namespace[name] = self._symbolic(function)
            return super().trace(root, concrete_args)
        finally:
            for namespace, name, function in originals:
                namespace[name] = function

    def _symbolic(self, function: Callable[..., Any]) -> Callable[..., Any]:
        always = getattr(function, "__name__", "") in (*_REGIONS, *RANDOM)

        def constructor(*args: Any, **kwargs: Any) -> Any:
            if always or any(isinstance(leaf, fx.Proxy) for leaf in pytree.tree_leaves((args, kwargs))):
                return self.create_proxy("call_function", function, args, kwargs)
            return function(*args, **kwargs)

        return constructor

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _AssignableProxy(node, self)


# What they return is another one at every call.
RANDOM = {"rand", "randn", "randint", "randperm", "normal", "empty"}


def loading_tracer(root: nn.Module, graph: fx.Graph) -> type[fx.Tracer] | None:
    """The tracer of torch where it will do, so that an exported network can be loaded without nasopt."""
    parameters = {name for name, _ in root.named_parameters(remove_duplicate=False)}
    special = {operator.setitem, *(getattr(torch, name) for name in CONSTRUCTORS), *_ROUNDING}
    special |= {getattr(autocast_mode, name) for name in _REGIONS}
    needs_own = any(
        node.target in special
        if node.op == "call_function"
        else node.op == "get_attr" and node.target not in parameters
        for node in graph.nodes
    )
    return LoadingTracer if needs_own else None
