"""Imports go one way and in no circle, and importing nasopt does no hidden work."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx
import pytest

import nasopt

ROOT = Path(nasopt.__file__).parent
# What a part may import beside itself; parts that are not listed are on top of all of them.
BELOW = {
    "errors": set(),
    "rounding_kernels": set(),
    "ste": {"errors", "rounding_kernels"},
    "nn": {"errors", "ste"},
    "distributed": {"errors"},
    "train": {"errors", "ste"},
    "graph": {"errors", "ste", "nn", "distributed"},
}
BELOW["cost"] = {"graph", *BELOW["graph"]}
BELOW["search"] = {"cost", "train", *BELOW["cost"]}
BELOW["methods"] = {"search", *BELOW["search"]}
BELOW["export"] = {"methods", *BELOW["methods"]}
# Helpers that know nothing of nasopt.
ANYWHERE = {"arguments", "checked", "compiled", "extras", "seal", "tables", "uncompiled"}
# Circles that are known, by their modules (without "nasopt."); empty them one by one.
CIRCLES: list[set[str]] = []


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """What a module imports, late imports in functions included: for each the names that may be the module, longest first."""

    def walk(node: ast.AST) -> Iterator[tuple[str, ...]]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node = ast.Module(node.orelse, [])
        if isinstance(node, ast.Import):
            yield from ((alias.name,) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from ((f"{node.module}.{alias.name}", node.module or "") for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    return walk(ast.parse(path.read_text()))


@functools.cache
def modules() -> dict[str, list[tuple[str, ...]]]:
    """By the name of every module what it imports."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = list(imports(path))
    return found


def part(name: str) -> str:
    return name.split(".")[1] if name.startswith("nasopt.") else ""


def test_imports_go_one_way() -> None:
    assert len(modules()) > 30
    assert BELOW.keys() <= {part(name) for name in modules()}
    for module, imported in modules().items():
        below = BELOW.get(part(module))
        for names in imported if below is not None else ():
            assert names[-1] != "nasopt" or names[0] in modules(), f"{module} imports the package that imports it"
            of = part(names[0])
            assert of in {"", part(module), *(below or ())} | ANYWHERE, f"{module} imports {names[0]}"
    for module in ANYWHERE:
        assert {part(names[0]) for names in modules()[f"nasopt.{module}"]} <= {"", "arguments", "errors", "extras"}


def test_no_circle_of_imports() -> None:
    graph = networkx.DiGraph()
    for module, imported in modules().items():
        known = (next((name for name in names if name in modules()), None) for names in imported)
        graph.add_edges_from((module, name) for name in known if name not in (None, "nasopt", module))
    circles = [c for c in networkx.strongly_connected_components(graph) if len(c) > 1]
    for circle in ({name.removeprefix("nasopt.") for name in circle} for circle in circles):
        assert any(circle <= allowed for allowed in CIRCLES), f"a circle of imports: {sorted(circle)}"


def test_circles_and_late_imports_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nimport a.b\nif TYPE_CHECKING:\n    import c\nelse:\n    import d\n"
        "def f():\n    from e import g\n"
    )
    found = list(imports(path))
    assert found == [("typing.TYPE_CHECKING", "typing"), ("a.b",), ("d",), ("e.g", "e")]
    path.write_text("from . import a")
    with pytest.raises(AssertionError, match="relative import"):
        list(imports(path))


def test_method_folders_do_not_import_each_other() -> None:
    folders = {name.split(".")[2] for name in modules() if part(name) == "methods" and name.count(".") > 2}
    assert "nasb" in folders
    for module, imported in modules().items():
        if part(module) == "methods" and module.count(".") > 2:
            others = tuple(f"nasopt.methods.{folder}" for folder in folders - {module.split(".")[2]})
            assert not [names[0] for names in imported if names[0].startswith(others)], module


def test_torch_fx_stays_in_graph_and_numba_in_one_file() -> None:
    for module, imported in modules().items():
        names = [names[0] for names in imported]
        if part(module) != "graph":
            assert not [name for name in names if name.startswith("torch.fx")], module
        assert not [name for name in names if name.split(".")[0] == "numba"], f"{module}: use nasopt.compiled"


def test_import_is_light() -> None:
    heavy = [
        *("numba", "matplotlib", "sklearn", "tqdm", "PIL", "onnx", "onnxruntime", "torchvision", "lightning"),
        *(
            "pytorch_lightning",
            "ray",
            "optuna",
            "litert_torch",
            "ai_edge_litert",
            "tflite_micro",
            "pytest",
            "torch._dynamo",
        ),
    ]
    code = (
        f"import sys, torch; own = set({heavy!r}) - set(sys.modules); import nasopt, nasopt.cost, nasopt.testing; "
        "nasopt.cost.target_names(); nasopt.cost.metric_names(); print(sorted(own & set(sys.modules)), "
        "'nasopt.export' in sys.modules, 'export' in dir(nasopt), nasopt.export.to_onnx.__name__)"
    )
    # Without numba everything works but latencies, whose error says what to install.
    code += (
        "\nsys.modules['numba'] = None"
        "\nmodel = nasopt.PIT(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 2, 1)), (3, 5, 5))"
        "\nmodel.get_regularization_loss().backward(); model.arch_export()"
        "\ntry: model.get_cost('latency:gap8')"
        "\nexcept nasopt.errors.MissingExtraError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = run.stdout.splitlines()
    assert first == "[] False True to_onnx"
    assert 'pip install "nasopt[latency]"' in second
