"""The command `nasopt`: models out of files, what of them is searchable, files for runtimes; errors in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import nasopt
from nasopt import PIT
from nasopt.cli import main
from nasopt.cli.models import load_model

NETS = """
import torch
from torch import nn
def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 2))
def raises():
    raise KeyError("not there")
def inner():
    return nn.Conv2d("a", 3, 3)
def asks(width):
    return width
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("my_nets", "broken", "asks_more", "unfinished", "leaves"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    Path("my_nets.py").write_text(NETS)
    Path("broken.py").write_text('raise ValueError("two\\nlines")')
    Path("asks_more.py").write_text("import no_such_package")
    Path("unfinished.py").write_text("x = (")
    Path("leaves.py").write_text("import sys; sys.exit(3)")
    return tmp_path


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert f"nasopt {nasopt.__version__} (torch {torch.__version__}" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["my_nets.py:build", "./my_nets.py:build", "my_nets:build"])
def test_explain(folder: Path, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", where, "--input", "3,8,8"]) == 0
    printed = capsys.readouterr()
    assert "searchable: 12 of 14 channels" in printed.out
    assert "0: 8 channels, searchable" in printed.out
    assert "4: 2 channels, fixed: it is an output of the network" in printed.out
    assert not printed.err


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("my_nets.py:raises", r"'my_nets.py:raises' fails: KeyError: 'not there' (my_nets.py, line 8)"),
        ("my_nets.py:inner", "fails: TypeError"),
        ("my_nets.py:asks", "cannot be called without arguments"),
        ("my_nets.py:biuld", "Did you mean 'build'?"),
        ("my_nets.py:number", "is a int: name a torch.nn.Module"),
        ("my_nets.py:", "does not say which model"),
        (":build", "does not say which model"),
        ("no_file.py:build", "there is no file no_file.py"),
        ("broken.py:build", "importing broken.py fails: ValueError: two lines (broken.py, line 1)"),
        ("broken:build", "importing broken fails: ValueError"),
        ("asks_more.py:build", "No module named 'no_such_package'"),
        ("unfinished.py:build", "SyntaxError"),
        ("leaves.py:build", "SystemExit: 3"),
        ("my_nets.py/x.py:build", "there is no file"),
    ],
)
def test_models_that_cannot_be_had(folder: Path, where: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("cost", "explain"):
        assert main([command, where, "--input", "3,8,8"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_export_of_what_was_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = PIT(load_model("my_nets.py:build"), (3, 8, 8))
    with torch.no_grad():
        model.alpha[:4] = 0
    found = model.arch_export()
    Path("found.json").write_text(json.dumps(model.arch_structure()))
    torch.save(found.state_dict(), "found.pt")
    np.save("x.npy", np.random.default_rng(0).random((8, 3, 8, 8)))
    words = ["export", "my_nets.py:build", "--structure", "found.json", "--weights", "found.pt"]
    assert main([*words, "--calibration", "x.npy", "--output", "found.pt2", "--target", "cortex_m4"]) == 0
    assert "cortex_m4" in capsys.readouterr().out
    x = torch.rand(2, 3, 8, 8)
    program = torch.export.load("found.pt2").module()
    assert torch.allclose(program(x), found(x), atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "3,8,8", "--output", "x.foo"], "the ending says which format"),
        (["--output", "x.onnx"], "give --input"),
        (["--input", "3,8,8", "--output", "my_nets.py/x.pt2"], "cannot be written"),
        (["--input", "3,8,8", "--output", "x.pte"], "give real inputs as --calibration"),
        (["--input", "3,8,8", "--structure", "my_nets.py", "--output", "x.pt2"], "cannot be read"),
        (["--input", "3,8,8", "--structure", "gone.json", "--output", "x.pt2"], "cannot be read"),
        (["--input", "3,8,8", "--structure", "empty.json", "--output", "x.pt2"], "not a structure"),
        (["--input", "3,8,8", "--weights", "my_nets.py", "--output", "x.pt2"], "it is no file of tensors"),
        (["--input", "3,8,8", "--weights", "other.pt", "--output", "x.pt2"], "do not fit"),
        (["--calibration", "my_nets.py", "--output", "x.pt2"], "give one array, from numpy.save"),
        (["--calibration", "one.npy", "--output", "x.pt2"], "give several samples"),
        (["--input", "3,8", "--output", "x.pt2"], "fail"),
    ],
)
def test_exports_that_cannot_be(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty.json").write_text("{}")
    np.save("one.npy", np.zeros(3))
    torch.save({"a": torch.zeros(1)}, "other.pt")
    assert main(["export", "my_nets.py:build", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(folder.glob("x.*"))
