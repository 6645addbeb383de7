"""Custom autograd functions while a model is traced: `Function.apply` with proxies makes a unit of the function.

People take `apply` early, `spike = Surrogate.apply`, so what is replaced is the code of torch's one function behind all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import checkpoint

from nasopt.graph.proxy import has_proxy

if TYPE_CHECKING:
    from nasopt.graph.tracer import ValueTracer

# What `apply` calls while a model is traced.
_HANDLERS: list[Callable[..., Any]] = []


class _Code:
    """The code of `apply` meanwhile, which closes over its class as that of torch does."""

    def apply(cls, *args, **kwargs):  # type: ignore[no-untyped-def]
        __class__  # type: ignore[name-defined]  # noqa: B018
        from nasopt.graph.custom_functions import _HANDLERS

        return _HANDLERS[-1](cls, *args, **kwargs)


@contextmanager
def traced_apply(tracer: ValueTracer) -> Iterator[None]:
    """Let calls of `Function.apply` with proxies become nodes."""
    function: Any = torch.autograd.Function.apply.__func__  # type: ignore[attr-defined]
    code = function.__code__
    original = FunctionType(code, function.__globals__, "apply", function.__defaults__, function.__closure__)

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not tracer.listens() or not has_proxy(args, kwargs):
            return original(cls, *args, **kwargs)
        if cls is checkpoint.CheckpointFunction:
            return args[0](*args[2:])
        return tracer.call_function_unit(cls, args, kwargs)

    _HANDLERS.append(apply)
    function.__code__ = _Code.apply.__code__
    try:
        yield
    finally:
        function.__code__ = code
        _HANDLERS.pop()
