"""Namespaces of the modules that a user wrote: those of no package that is installed, and of no part of Python."""

from __future__ import annotations

import functools
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

_STDLIB = sysconfig.get_path("stdlib")


def users_namespaces(namespaces: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Modules of the packages that the model comes from, and all that are installed nowhere: scripts, notebooks."""
    own = {id(one): one for one in namespaces if _top(str(one.get("__name__", ""))) not in ("torch", "nasopt")}
    packages = {_top(str(namespace.get("__name__", ""))) for namespace in own.values()}
    found = dict(own)  # a file that was run, not imported, is none of the modules below
    by_package, installed_nowhere = _inventory(tuple(map(id, list(sys.modules.values()))))
    for top in {*packages, *installed_nowhere} - {"torch", "nasopt"}:
        chosen = by_package[top] if top in packages else installed_nowhere[top]
        found.update((id(namespace), namespace) for namespace in chosen)
    return list(found.values())


@functools.lru_cache(maxsize=1)
def _inventory(_present: tuple[int, ...]) -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[dict[str, Any]]]]:
    """Namespaces of all modules by their package, and of those that are installed nowhere; every trace asks again."""
    by_package: dict[str, list[dict[str, Any]]] = defaultdict(list)
    installed_nowhere: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, module in list(sys.modules.items()):
        namespace = getattr(module, "__dict__", None)
        if type(namespace) is dict:
            by_package[_top(name)].append(namespace)
            if _is_installed_nowhere(module):
                installed_nowhere[_top(name)].append(namespace)
    return by_package, installed_nowhere


def _is_installed_nowhere(module: Any) -> bool:
    place = getattr(module, "__file__", None) or ""
    return bool(place) and not place.startswith(_STDLIB) and "site-packages" not in place


def _top(name: str) -> str:
    return name.partition(".")[0]
