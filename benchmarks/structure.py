"""Structure of the code: lines and files by part, longest files, import cycles, files entered by one call of a method.

    python benchmarks/structure.py                       # of this checkout
    python benchmarks/structure.py --root OTHER_CHECKOUT # of another one, measured with this script
    python benchmarks/structure.py --only calls --list   # names of the files that a call enters

Lines are all lines of `.py` files. An import cycle is a group of modules that import each other, directly or through others
(a strongly connected component), wherever the imports are written: also inside functions and under `TYPE_CHECKING`, which
hide a cycle from Python and not from a reader. A package's `__init__.py` is left out: it imports its parts by definition.
Files are counted with `sys.setprofile`: those of `nasopt/` in which a function is called, on ResNet-8, in
the second of two equal calls, so that what is computed once does not count.
"""

from __future__ import annotations

import argparse
import ast
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx

PARTS = (
    "nasopt",
    "nasopt/graph",
    "nasopt/graph/branches",
    "nasopt/graph/rules",
    "nasopt/cost",
    "nasopt/cost/targets",
    "nasopt/search",
    "nasopt/methods",
    "nasopt/methods/nasb",
    "nasopt/nn",
    "nasopt/export",
    "nasopt/distributed",
    "unit_test",
    "proofs",
    "benchmarks_mlperf_tiny",
    "benchmarks",
    "examples",
)


def sources(root: Path, folder: str) -> list[Path]:
    """Python files below a folder of a checkout."""
    return sorted(path for path in (root / folder).rglob("*.py") if ".venv" not in path.parts)


def count_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def part_of(root: Path, path: Path) -> str:
    """The most specific entry of `PARTS` that holds a file; other folders of `nasopt` are parts of their own."""
    parents = [str(parent) for parent in path.relative_to(root).parents]
    if parents[-2] == "nasopt" and parents[0] not in PARTS:
        return parents[0]
    return next(parent for parent in parents if parent in PARTS)


def print_lines(root: Path, longest: int) -> None:
    """Lines and files of every part, then the longest files."""
    tops = [part for part in PARTS if "/" not in part]
    table: dict[str, list[int]] = {}
    for top in tops:
        for path in sources(root, top):
            table.setdefault(part_of(root, path), []).append(count_lines(path))
    print(f"{'part':26} {'lines':>7} {'files':>6} {'longest':>8}")
    for part, counts in table.items():
        print(f"{part:26} {sum(counts):7,} {len(counts):6} {max(counts):8}")
    for label, inside in (("nasopt, all parts", "nasopt"), ("everything", "")):
        counts = [count for part, own in table.items() if part.split("/")[0].startswith(inside) for count in own]
        print(f"{label:26} {sum(counts):7,} {len(counts):6} {max(counts):8}")
    files = sorted(((count_lines(path), path) for top in tops for path in sources(root, top)), reverse=True)
    print(f"\nlongest files: {', '.join(f'{path.relative_to(root)} {lines}' for lines, path in files[:longest])}")


def import_graph(root: Path) -> nx.DiGraph:
    """Modules of `nasopt` and which others they import, anywhere in the file."""
    names = {}
    for path in sources(root, "nasopt"):
        if path.name != "__init__.py":
            names[".".join(path.relative_to(root).with_suffix("").parts)] = path
    graph = nx.DiGraph()
    graph.add_nodes_from(names)
    for name, path in names.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                found = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            graph.add_edges_from((name, other) for other in found if other in names and other != name)
    return graph


def import_cycles(root: Path) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    return sorted(sorted(group) for group in nx.strongly_connected_components(import_graph(root)) if len(group) > 1)


def files_entered(call: Callable[[], Any], package: Path) -> list[str]:
    """Files below `package` in which a function runs during the second of two calls."""
    call()
    seen: set[str] = set()

    def note(frame: Any, event: str, _argument: Any) -> None:
        if event == "call":
            seen.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    inside = (Path(name) for name in seen)
    return sorted(str(path.relative_to(package)) for path in inside if path.is_relative_to(package))


def searches() -> dict[str, Any]:
    """A search model of every method, on ResNet-8."""
    import nasopt
    from benchmarks_mlperf_tiny.networks import resnet8

    shape = (3, 32, 32)
    return {
        "PIT": nasopt.PIT(resnet8(), shape, regularizer="macs"),
        "SuperNet": nasopt.SuperNet(nasopt.with_candidates(resnet8(), shape), shape, regularizer="macs"),
        "PITSuperNet": nasopt.PITSuperNet(nasopt.with_candidates(resnet8(), shape), shape, regularizer="macs"),
        "NASB": nasopt.NASB(resnet8(), shape, cells=["stack1", "stack2", "stack3"], regularizer="ops"),
    }


def print_calls(names: bool) -> None:
    """Files of `nasopt` entered by a forward pass in train mode, by the regularizer and by an export."""
    import torch

    import nasopt

    package = Path(nasopt.__file__).parent
    torch.manual_seed(0)
    x = torch.randn(4, 3, 32, 32)
    print(f"{'files entered':16} {'forward':>8} {'regularizer':>12} {'export':>7}")
    for name, model in searches().items():
        model.train()
        calls = (lambda model=model: model(x), model.get_regularization_loss, model.arch_export)
        entered = [files_entered(call, package) for call in calls]
        print(f"{name:16} {len(entered[0]):8} {len(entered[1]):12} {len(entered[2]):7}")
        if names:
            for what, files in zip(("forward", "regularizer", "export"), entered):
                print(f"    {what}: {', '.join(files)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help="of the checkout")
    parser.add_argument("--only", choices=["lines", "cycles", "calls"])
    parser.add_argument("--longest", type=int, default=8, help="how many of the longest files to name")
    parser.add_argument("--list", action="store_true", help="name the files that a call enters")
    options = parser.parse_args()
    root = options.root.resolve()
    sys.path.insert(0, str(root))
    warnings.simplefilter("ignore")
    if options.only in (None, "lines"):
        print_lines(root, options.longest)
    if options.only in (None, "cycles"):
        cycles = import_cycles(root)
        print(f"\nimport cycles: {len(cycles) or 'none'}")
        for cycle in cycles:
            print(f"    {', '.join(cycle)}")
    if options.only in (None, "calls"):
        print()
        print_calls(options.list)


if __name__ == "__main__":
    main()
