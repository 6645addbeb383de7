"""Forward hooks of a seed's layers: what they change or hand on is a part of the model, and traced with it.

The layer itself becomes a call without hooks. Hooks that only look on, for somebody outside of the model, stay on their layer.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

from torch import nn

_KINDS = ("_forward_pre_hooks", "_forward_hooks")
_TORCHS = "torch.nn.utils."


class Observer:
    """A hook that only looks on: its layer is what its class says."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self.hook = hook

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.hook(*args, **kwargs)


def changes(layer: nn.Module) -> bool:
    """Whether a layer has forward hooks that may change what passes."""
    return any(not isinstance(hook, Observer) for kind in _KINDS for hook in vars(layer)[kind].values())


def mark_observers(layer: nn.Module) -> None:
    """Note that a layer's forward hooks change nothing."""
    for kind in _KINDS:
        hooks = vars(layer)[kind]
        hooks.update((key, hook if isinstance(hook, Observer) else Observer(hook)) for key, hook in list(hooks.items()))


def has_own_hooks(module: nn.Module) -> bool:
    """Whether somebody has put forward hooks on a layer; those by which torch computes weights are no one's own."""
    hooks = [hook for kind in _KINDS for hook in vars(module)[kind].values()]
    return bool(hooks) and not any(type(hook).__module__.startswith(_TORCHS) for hook in hooks)


def call_with_hooks(
    layer: nn.Module,
    forward: Callable[..., Any],
    call_module: Callable[..., Any],
    owners: frozenset[int],
    args: Any,
    kwargs: Any,
) -> tuple[Any, bool]:
    """The result of a call, and whether its hooks are a part of the model.

    Args:
        layer: what is called.
        forward: calls the layer with its hooks.
        call_module: `(layer, forward, args, kwargs)`, the tracer's, for the call without hooks.
        owners: identities of the model's modules and of what they hold.
        args, kwargs: of the call.
    """
    results: list[Any] = []

    def bare(*given: Any, **named: Any) -> Any:
        with _without_hooks(layer):
            return call_module(layer, forward, given, named)

    def noted(hook: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            results.append(hook(*given, **named))
            return results[-1]

        return call

    hooks = [hook for kind in _KINDS for hook in vars(layer)[kind].values()]
    kept = {kind: vars(layer)[kind] for kind in _KINDS}
    for kind in _KINDS:
        vars(layer)[kind] = OrderedDict((key, noted(hook)) for key, hook in kept[kind].items())
    vars(layer)["forward"] = bare
    try:
        made = forward(*args, **kwargs)
    finally:
        vars(layer).update(kept)
        del vars(layer)["forward"]
    return made, any(one is not None for one in results) or any(_holds(hook, owners) for hook in hooks)


@contextmanager
def _without_hooks(layer: nn.Module) -> Iterator[None]:
    kept = {kind: vars(layer)[kind] for kind in _KINDS}
    forward = vars(layer).pop("forward")
    drop_hooks(layer)
    try:
        yield
    finally:
        vars(layer).update(kept, forward=forward)


def drop_hooks(layer: nn.Module) -> None:
    """Leave a layer without forward hooks."""
    vars(layer).update((kind, OrderedDict()) for kind in _KINDS)


def owned(root: nn.Module) -> frozenset[int]:
    """Identities of the modules of a model and of the containers that they hold."""
    found = {id(module) for module in root.modules()}
    held = (value for module in root.modules() for key, value in vars(module).items() if key[0] != "_")
    return frozenset(found | {id(value) for value in held if isinstance(value, (list, dict, set))})


def _holds(hook: Any, owners: frozenset[int], depth: int = 3) -> bool:
    """Whether a hook knows the model, so that it may hand something on to it."""
    if id(hook) in owners:
        return True
    if depth == 0:
        return False
    parts: list[Any] = []
    if isinstance(hook, FunctionType):
        parts = [cell.cell_contents for cell in hook.__closure__ or () if cell != type(cell)()]
        parts += hook.__defaults__ or ()
    elif isinstance(hook, MethodType):
        parts = [hook.__self__]
    elif isinstance(hook, functools.partial):
        parts = [hook.func, *hook.args, *hook.keywords.values()]
    elif hasattr(hook, "__dict__") and not isinstance(hook, (nn.Module, type)):
        parts = list(vars(hook).values())
    return any(_holds(part, owners, depth - 1) for part in parts)
