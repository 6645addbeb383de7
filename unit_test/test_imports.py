"""Imports go one way, and importing nasopt does no hidden work."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import nasopt

ROOT = Path(nasopt.__file__).parent
# A layer may import those before it.
ORDER = ["errors", "distributed", "ste", "nn", "graph", "cost", "search", "methods", "export"]


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def files() -> dict[tuple[str, ...], list[str]]:
    return {path.relative_to(ROOT).with_suffix("").parts: imports(path) for path in ROOT.rglob("*.py")}


def test_imports_go_one_way() -> None:
    table = files()
    assert len(table) > 30
    for parts, names in table.items():
        if parts[0] not in ORDER:
            continue
        for name in names:
            layer = name.split(".")[1] if name.startswith("nasopt.") else None
            if layer in ORDER:
                assert ORDER.index(layer) <= ORDER.index(parts[0]), f"{'/'.join(parts)} imports {name}"
            assert name != "nasopt", f"{'/'.join(parts)} imports the package that imports it"


def test_method_folders_do_not_import_each_other() -> None:
    folders = {parts[1] for parts in files() if parts[0] == "methods" and len(parts) > 2}
    assert "nasb" in folders
    for parts, names in files().items():
        if parts[0] == "methods" and len(parts) > 2:
            others = tuple(f"nasopt.methods.{folder}" for folder in folders - {parts[1]})
            assert not [name for name in names if name.startswith(others)], parts


def test_torch_fx_stays_in_graph_and_numba_in_kernels() -> None:
    for parts, names in files().items():
        if parts[0] != "graph":
            assert not [n for n in names if n.startswith("torch.fx")], parts
        # Packed binary layers and adder layers are compiled, too; they are imported on use.
        if parts[0] != "cost" and not parts[-1].startswith(("packed", "adder_kernels")):
            assert not [n for n in names if n.split(".")[0] == "numba"], parts


def test_import_is_light() -> None:
    heavy = [
        "numba",
        "matplotlib",
        "sklearn",
        "tqdm",
        "PIL",
        "onnx",
        "onnxruntime",
        "torchvision",
        "lightning",
        "pytorch_lightning",
        "ray",
        "optuna",
        "torch._dynamo",
    ]
    code = (
        f"import sys, torch; own = set({heavy!r}) - set(sys.modules); import nasopt, nasopt.cost; "
        "nasopt.cost.target_names(); nasopt.cost.metric_names(); print(sorted(own & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
