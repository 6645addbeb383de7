"""The first call of a seed's `forward` whose result its search model does not compute: both are run and recorded."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from nasopt.graph.callsite import place_of, user_frame
from nasopt.graph.example import Example, call_arguments
from nasopt.graph.state import copy_model


def first_difference(seed: nn.Module, net: nn.Module, example: Example, inputs: tuple[Any, ...], training: bool) -> str:
    """A sentence that names the call, its line and module, and what to do. `net` is the traced model."""
    twin = copy_model(seed)
    for module in (*twin.modules(), *net.modules()):
        module.training = training
    wanted, found = _Recorder(twin), _Recorder(net)
    with torch.set_grad_enabled(training):
        wanted.run(example, inputs)
        found.run(example, inputs)
    known = {print_ for print_, _, _, _ in found.calls}
    for print_, name, path, place in wanted.calls:
        if print_ not in known:
            inside = f"module {path!r}, " if path else ""
            cure = f"leaf_modules=[{path!r}]" if path else "leaf_modules="
            move = "Name that module in" if path else "Move this code into a module of its own and name it in"
            return f"The first call that differs is {name} in {inside}{place}. {move} {cure}: it then stays whole;"
    return (
        "Every call of its forward is there, so what differs is how they are masked or put together: please report it;"
    )


class _Recorder(TorchFunctionMode):
    """Fingerprints of every result that depends on inputs or on tensors of the model, in the order of the calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.calls: list[tuple[Any, str, str, str]] = []
        self._known = {id(t) for t in (*model.parameters(), *model.buffers())}
        self._alive: list[Any] = []

    def run(self, example: Example, inputs: tuple[Any, ...]) -> None:
        """Run the model, and record as far as it comes."""
        given = pytree.tree_map_only(Tensor, torch.clone, inputs)
        self._known |= {id(x) for x in pytree.tree_leaves(given) if isinstance(x, Tensor)}
        self._alive.append(given)
        args, kwargs = call_arguments(self.model, example, dict(zip(example.traced, given)))
        with contextlib.suppress(Exception), self:
            self.model(*args, **kwargs)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given = [x for x in pytree.tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)]
        made = [x for x in pytree.tree_leaves(result) if isinstance(x, Tensor)]
        if not any(id(x) in self._known for x in given):
            return result
        self._known |= {id(x) for x in made}
        self._alive.append(made)
        frame = user_frame()
        owner = frame
        while owner is not None and not _is_users_module(owner.f_locals.get("self")):
            owner = owner.f_back
        path = self._path_of(owner.f_locals["self"]) if owner is not None else ""
        name = getattr(function, "__name__", str(function))
        self.calls.extend((_fingerprint(x), name, path, place_of(frame)) for x in made if name != "__get__")
        return result

    def _path_of(self, module: nn.Module) -> str:
        return next((path for path, one in self.model.named_modules() if one is module), "")


def _is_users_module(value: Any) -> bool:
    return isinstance(value, nn.Module) and not type(value).__module__.startswith(("torch.nn.", "torch.fx."))


def _fingerprint(x: Tensor) -> Any:
    with torch.no_grad():
        wide = x.detach().abs().double() if x.is_complex() else x.detach().double()
        if not x.numel():
            return (tuple(x.shape),)
        return (tuple(x.shape), f"{float(wide.sum()):.3e}", f"{float(wide.abs().max()):.3e}")
