"""README and pages of the site: examples run or at least parse, commands run or name their time, links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import fx, nn

from nasopt.cli import main
from nasopt.graph.support import support_matrix

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOB = "https://github.com/nasopt/nasopt/blob/main/"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_support_matrix_is_that_of_the_table() -> None:
    shown = re.search(r"<!-- support matrix -->\n(.*)\n<!-- end of support matrix -->", README, re.DOTALL)
    assert shown is not None
    assert shown[1] == support_matrix(), "run `python -m nasopt.graph.support` and put its table into the README"


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_first_example_runs(page: str) -> None:
    example = blocks((ROOT / page).read_text(), "python")[0]
    seed = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    loader = [(torch.randn(2, 3, 32, 32), torch.tensor([0, 3]))]
    scope = {"seed": seed, "loader": loader, "criterion": nn.CrossEntropyLoss()}
    exec(example, scope)
    assert isinstance(scope["found"], fx.GraphModule)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_in_examples_exist(page: Path) -> None:
    """Examples are Python, and what they import from nasopt or write as `nasopt.x` is there."""
    for block in blocks(page.read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nasopt":
                if node.module == "nasopt.lightning":  # importing it takes seconds
                    continue
                module = importlib.import_module(node.module or "")
                missing = [x.name for x in node.names if not hasattr(module, x.name)]
                for name in missing:
                    importlib.import_module(f"{node.module}.{name}")
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nasopt":
                assert hasattr(importlib.import_module("nasopt"), node.attr) or importlib.import_module(
                    f"nasopt.{node.attr}"
                )


def test_commands_run_or_name_their_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    net = "nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))"
    Path("my_nets.py").write_text(f"from torch import nn\n\n\ndef build():\n    return {net}\n")
    lines = [line for page in PAGES for block in blocks(page.read_text(), "sh") for line in block.splitlines() if line]
    commands = dict.fromkeys(line for line in lines if line.startswith("nasopt "))
    assert len(commands) >= 6
    for command in commands:
        assert main(command.split()[1:]) == 0, f"{command}: {capsys.readouterr().err}"
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    lines += [line for block in blocks(guide, "sh") for line in block.splitlines()]
    for line in lines:
        assert line in commands or re.search(r"# \d+ (s|min|h)\b", line), f"{line}: how long does it take?"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, place = target.replace(BLOB, "/").replace(BLOB.replace("/blob/", "/raw/"), "/").partition("#")
        if "://" in path or path.startswith("cards/"):  # cards are put there by docs/hooks.py: `make docs` checks them
            continue
        assert page.name != "README.md" or target.startswith("https://"), (
            f"{target}: the README is shown elsewhere, too"
        )
        found = (ROOT / path[1:]) if path.startswith("/") else (page.parent / path)
        assert found.exists(), f"{page.name}: {target}"
        if place and found.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            assert place in [re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles], (
                target
            )
