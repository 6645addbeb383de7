"""What modules hold besides their layers: copies of models, and attributes put back after `forward` has set them."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nasopt.errors import TraceError

_CONTAINERS = (list, dict, set, deque)


def copy_model(model: nn.Module) -> nn.Module:
    """A copy of everything, also where a module has kept an activation, which comes without its history.

    Raises:
        TraceError: something in it cannot be copied; names the attribute.
    """
    memo = without_history(model)
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} cannot be copied (copy.deepcopy): {_culprit(model, memo)}{type(error).__name__}: {error}"
        ) from error


def without_history(model: nn.Module) -> dict[int, Any]:
    """For `copy.deepcopy`: copies of tensors that modules have kept, such as a weight that a hook computes at every call."""
    return {
        id(tensor): tensor.detach().clone()
        for _, _, value in _attributes(model)
        for tensor in pytree.tree_leaves(value)
        if isinstance(tensor, Tensor) and not tensor.is_leaf
    }


def _culprit(model: nn.Module, memo: dict[int, Any]) -> str:
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key in ("_modules", "_parameters", "_buffers"):
                continue
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:
                return f"attribute {f'{name}.{key}' if name else key!r} is the reason; "
    return ""


def _attributes(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    for module in model.modules():
        for key, value in vars(module).items():
            if key != "_modules":
                yield module, key, value


class ModuleState:
    """The attributes of all modules of a model at one moment: names, objects, and what lists, dicts and sets hold."""

    def __init__(self, root: nn.Module) -> None:
        self._saved: list[tuple[nn.Module, dict[str, Any], list[tuple[Any, Any]]]] = []
        for module in root.modules():
            attributes = dict(vars(module))
            contents = [(value, copy.copy(value)) for value in attributes.values() if isinstance(value, _CONTAINERS)]
            self._saved.append((module, attributes, contents))

    def restore(self) -> None:
        """Put all of it back."""
        for module, attributes, contents in self._saved:
            vars(module).clear()
            vars(module).update(attributes)
            for container, before in contents:
                container.clear()
                container.extend(before) if isinstance(container, (list, deque)) else container.update(before)

    def changed(self) -> dict[tuple[nn.Module, str], Any]:
        """Plain attributes that are others now, with their present values."""
        found = {}
        for module, attributes, contents in self._saved:
            before = {id(container): old for container, old in contents}
            for key, value in vars(module).items():
                if key in ("_modules", "_parameters", "_buffers", "training") or key.startswith("_tensor_constant"):
                    continue
                old = attributes.get(key)
                if key not in attributes or value is not old or _differs(before.get(id(value), value), value):
                    found[module, key] = value
        return found


def _differs(old: Any, new: Any) -> bool:
    return len(old) != len(new) if isinstance(new, _CONTAINERS) else False


def random_state() -> tuple[Any, ...]:
    """Where Python's and NumPy's generators are."""
    import random
    import sys

    numpy = sys.modules.get("numpy")
    return random.getstate(), numpy.random.get_state() if numpy is not None else None


def set_random_state(state: tuple[Any, ...]) -> None:
    """Put them back there."""
    import random
    import sys

    random.setstate(state[0])
    if state[1] is not None:
        sys.modules["numpy"].random.set_state(state[1])


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers of a module itself."""
    return [t for t in (*module._parameters.values(), *module._buffers.values()) if isinstance(t, torch.Tensor)]
