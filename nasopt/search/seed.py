"""Which layers does a user mean? Names, globs and classes, checked against the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from nasopt.errors import ConfigError, nearest
from nasopt.graph.trace import matches_module


def layer_patterns(value: Any, name: str) -> tuple[Any, ...]:
    """One pattern or several as a tuple; `name` is the argument they came in.

    Raises:
        ConfigError: neither a name, a glob nor a class of modules.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        value = (value,)
    for item in value:
        if not isinstance(item, str) and not (isinstance(item, type) and issubclass(item, nn.Module)):
            raise ConfigError(f"{name} holds names, globs or nn.Module classes; got {item!r}")
    return tuple(value)


def check_layer_patterns(exclude: Sequence[Any], model: nn.Module) -> None:
    """Raise a `ConfigError` where a pattern of `exclude_names` or `exclude_types` matches no layer."""
    modules = [(name, module) for name, module in model.named_modules() if name]
    for pattern in exclude:
        if any(matches_module(name, module, [pattern]) for name, module in modules):
            continue
        which = "exclude_names" if isinstance(pattern, str) else "exclude_types"
        hint = nearest(pattern, [name for name, _ in modules]) if isinstance(pattern, str) else ""
        raise ConfigError(
            f"{which}: {pattern!r} matches no layer of {type(model).__name__}. Names are those of "
            f"model.named_modules(), globs like 'layer1.*' are allowed.{hint}"
        )
