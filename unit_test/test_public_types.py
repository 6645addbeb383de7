"""The script that type checkers read touches every public name."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest
import user_script  # names that do not exist fail here

MODULES = (
    "nasopt",
    "nasopt.cost",
    "nasopt.cost.targets",
    "nasopt.datafree",
    "nasopt.distributed",
    "nasopt.errors",
    "nasopt.export",
    "nasopt.methods.nasb",
    "nasopt.nn",
    "nasopt.pareto",
    "nasopt.testing",
    "nasopt.track",
    "nasopt.train",
    "nasopt.zoo",
)


@pytest.mark.parametrize("module", MODULES)
def test_no_public_name_is_left_out(module: str) -> None:
    path = Path(user_script.__file__)
    tree = ast.parse(path.read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    found = importlib.import_module(module)
    public = getattr(found, "__all__", None) or [
        name
        for name, value in vars(found).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module and name != "nearest"
    ]
    assert set(public) <= used
