"""Registry of targets: names are known at once; a target's module, and numba with it, is loaded when asked for."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from nasopt.cost.targets import shipped
from nasopt.cost.targets.target import Target
from nasopt.errors import ConfigError, nearest

_SHIPPED = frozenset(module.name for module in iter_modules(shipped.__path__))
_OWN: dict[str, Target] = {}


def target_names() -> list[str]:
    """Names that `get_target` takes: shipped ones (files of `shipped/`) and registered ones."""
    return sorted({*_SHIPPED, *_OWN})


def get_target(target: str | Target) -> Target:
    """The target of that name; a `Target` is returned as it is.

    Raises:
        ConfigError: no target has that name; the message lists the known ones.
    """
    if isinstance(target, Target):
        return target
    if target in _OWN:
        return _OWN[target]
    if target in _SHIPPED:
        loaded: Target = import_module(f"{shipped.__name__}.{target}").TARGET
        return loaded
    known = target_names()
    hint = nearest(target, known) if isinstance(target, str) else ""
    raise ConfigError(f"unknown target {target!r}: known are {', '.join(known)}, or pass a Target.{hint}")


def register_target(target: Target) -> Target:
    """Make `target` available under its name, to `get_target` and as the regularizer `"latency:NAME"`.

    Raises:
        ConfigError: another target has that name.
    """
    if target.name in _SHIPPED or _OWN.setdefault(target.name, target) is not target:
        raise ConfigError(f"a target named {target.name!r} exists already: choose another name")
    return target
