"""Scripts of benchmarks/ and examples/ start as documented, as a script and as a module, from any folder."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest

import benchmarks_mlperf_tiny  # noqa: F401  both packages are installed where scripts run: those of this checkout
import nasopt  # noqa: F401

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path.relative_to(ROOT) for folder in ("benchmarks", "examples") for path in (ROOT / folder).glob("*.py")
)
WITH_MAIN = [path for path in SCRIPTS if "__main__" in (ROOT / path).read_text()]
# Lightning takes seconds to import: its own benchmark is started by hand.
LIGHT = [path for path in WITH_MAIN if "import lightning" not in (ROOT / path).read_text()]


@pytest.fixture
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another folder, where Python finds nasopt and neither `benchmarks` nor `examples`."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("benchmarks", "examples")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if Path(path or ".").resolve() != ROOT])
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize("path", LIGHT, ids=str)
def test_a_script_starts(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As `python SCRIPT --help`; where there are no options, all but the main function runs."""
    monkeypatch.syspath_prepend(str(ROOT / path.parent))  # what Python does for a script
    has_options = "ArgumentParser" in (ROOT / path).read_text()
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) if has_options else contextlib.nullcontext():
        runpy.run_path(str(ROOT / path), run_name="__main__" if has_options else "script")
    assert not has_options or capsys.readouterr().out.startswith(f"usage: {path.name}")


@pytest.mark.parametrize("path", WITH_MAIN, ids=str)
def test_the_documented_command_names_the_script(path: Path) -> None:
    shown = ast.get_docstring(ast.parse((ROOT / path).read_text())) or ""
    commands = re.findall(r"\bpython (-m )?([\w./]+)", shown)
    names = {str(path), ".".join(path.with_suffix("").parts)}
    assert commands, "the docstring shows how to start it"
    assert any(name in names for _, name in commands)
    for is_module, name in commands:
        assert (ROOT / (name.replace(".", "/") + ".py" if is_module else name)).is_file()


def test_a_script_is_a_module_too() -> None:
    for path in LIGHT:
        importlib.import_module(".".join(path.with_suffix("").parts))


PROOFS = sorted((ROOT / "proofs").glob("*.py"))


@pytest.mark.parametrize("path", PROOFS, ids=lambda path: path.name)
def test_what_a_proof_imports_of_this_repository_is_there(path: Path) -> None:
    """Proofs run by hand: what they use must not go away meanwhile."""
    for node in ast.walk(ast.parse(path.read_text())):
        own = ("nasopt", "benchmarks_mlperf_tiny", "unit_test", "examples")
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in own:
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                is_there = hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")
                assert is_there, f"{node.module} has no {alias.name}"
