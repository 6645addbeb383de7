"""What modules hold besides their layers: copies of models, and attributes put back after `forward` has set them."""

from __future__ import annotations

import copy
from collections import OrderedDict, deque
from collections.abc import Iterator
from functools import lru_cache
from types import CellType, FunctionType, MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nasopt.errors import TraceError

_CONTAINERS = (list, dict, set, deque)
_PLAIN = {int, float, bool, str, type(None)}
_EMPTY = {dict, OrderedDict, set, list, tuple}
# What nothing can be in.
_SINGLE = (torch.Tensor, nn.Parameter, int, float, bool, str, type(None), torch.dtype, torch.device, slice)


def copy_model(model: nn.Module) -> nn.Module:
    """A copy of everything, also where a module has kept an activation, which comes without its history.

    Raises:
        TraceError: something in it cannot be copied; names the attribute.
    """
    memo: dict[int, Any] = {}
    try:
        copy_parts(model, memo)
        return with_own_functions(copy.deepcopy(model, memo), memo)
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} cannot be copied (copy.deepcopy): {_culprit(model, memo)}{type(error).__name__}: {error}"
        ) from error


def copy_parts(model: nn.Module, memo: dict[int, Any]) -> None:
    """Add to the memo of a `copy.deepcopy` what it would fail on, or take long over.

    Tensors that modules have kept, such as a weight that a hook computes at every call, come without their history. Modules hold
    numbers, tensors and empty dicts, which need not be found out for each of them by way of pickling.
    """
    for _, _, value in _attributes(model):
        kind = type(value)  # whether an object of another kind is empty, it may refuse to say
        if kind not in _PLAIN and not (kind in _EMPTY and not value):
            for tensor in pytree.tree_leaves(value):
                if isinstance(tensor, Tensor) and not tensor.is_leaf and id(tensor) not in memo:
                    memo[id(tensor)] = tensor.detach().clone()
    plain = [m for m in model.modules() if id(m) not in memo and _is_copied_by_attribute(cast(Any, type(m)))]
    memo.update((id(module), module.__new__(type(module))) for module in plain)
    for module in reversed(plain):  # what is inside first: a compiled module looks at what it holds while it is copied
        vars(memo[id(module)]).update({key: _copy_attribute(value, memo) for key, value in vars(module).items()})


def with_own_functions(twin: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy whose functions and hooks mean its own modules: a closure of the model's would go on with those of the model.

    Args:
        twin: the copy, changed.
        memo: of the `copy.deepcopy` that made it.
    """
    for module in twin.modules():
        if isinstance(module, torch.jit.ScriptModule):  # torch copies its parameters with the history of being copied
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(parameter.detach(), parameter.requires_grad))
        for key, value in vars(module).items():
            if isinstance(value, FunctionType):
                vars(module)[key] = _rebound(value, memo)
            elif isinstance(value, dict) and "hooks" in key:
                value.update({name: _rebound(hook, memo) for name, hook in value.items()})
    return twin


def _rebound(value: Any, memo: dict[int, Any]) -> Any:
    """What a closure holds, for the copy."""
    if isinstance(value, MethodType):
        owner = _rebound(value.__self__, memo)
        return value if owner is value.__self__ else MethodType(value.__func__, owner)
    if not isinstance(value, FunctionType):
        return memo.get(id(value), value) if isinstance(value, (nn.Module, Tensor, *_CONTAINERS)) else value
    cells = value.__closure__ or ()
    held = [_content(cell) for cell in cells]
    given = [one for one in (*held, *(value.__defaults__ or ())) if one is not value]
    if all(_rebound(one, memo) is one for one in given):
        return value
    made = [cell if one is None or one is value else CellType(_rebound(one, memo)) for cell, one in zip(cells, held)]
    defaults = None if value.__defaults__ is None else tuple(_rebound(one, memo) for one in value.__defaults__)
    twin = FunctionType(value.__code__, value.__globals__, value.__name__, defaults, tuple(made) or None)
    twin.__kwdefaults__, twin.__dict__ = value.__kwdefaults__, dict(value.__dict__)
    return twin


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that nothing was assigned to yet
        return None


# Files of torch whose layers have no `__setstate__` that does more than fill in for old files.
_LAYERS = {
    f"torch.nn.modules.{name}"
    for name in (
        "activation", "batchnorm", "container", "conv", "dropout", "flatten", "linear", "module", "normalization", "pooling",
        "sparse",
    )
}  # fmt: skip


_COPYING = ("__new__", "__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__")


@lru_cache(maxsize=1024)
def _is_copied_by_attribute(kind: Any) -> bool:
    """Whether a copy of such a module is a new one with copies of its attributes, as far as its class says."""
    same = [name for name in _COPYING if getattr(kind, name, None) is getattr(nn.Module, name, None)]
    is_torchs = kind.__module__ in _LAYERS
    slots = any(vars(base).get("__slots__") for base in kind.__mro__)
    return not slots and (is_torchs or len(same) == len(_COPYING))


def _copy_attribute(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _PLAIN or (kind is tuple and all(type(item) in _PLAIN for item in value)):
        return value
    if kind in (dict, OrderedDict, set) and not value:
        return kind()
    return copy.deepcopy(value, memo)


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


def leaves(value: Any) -> list[Any]:
    """`pytree.tree_leaves`, at a fifth of its time for what arguments are made of."""
    found: list[Any] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        kind = type(one)
        if kind in _SINGLE:
            found.append(one)
        elif kind is tuple or kind is list:
            waiting.extend(reversed(one))
        elif kind is dict:
            waiting.extend(reversed(one.values()))
        else:
            found.extend(pytree.tree_leaves(one))
    return found


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


def tensors_by_name(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those with several names under all of them."""
    found: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    found.update(model.named_buffers(remove_duplicate=False))
    return found
