"""The command `nasopt search`: what it writes is what it found; requests that cannot be served are refused before training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import nasopt
from nasopt.cli import main
from nasopt.cli.models import load_model
from nasopt.cost import network_cost

NETS = """
import torch
from torch import nn
def build():
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
def batches(seed):
    draw = torch.Generator().manual_seed(seed)
    xs = [torch.randn(16, 4, generator=draw) for _ in range(8)]
    return [(x, (x[:, 0] > 0).long()) for x in xs]
train = batches(0)
def val():
    return batches(1)
def broken():
    raise OSError("no data")
"""
WORDS = ["search", "my_searches.py:build", "--train", "my_searches.py:train", "--val", "my_searches.py:val", "--quiet"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_searches", raising=False)
    Path("my_searches.py").write_text(NETS)


def test_search_keeps_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--budget", "size=60", "--epochs", "3,8,2"]) == 0
    printed = capsys.readouterr().out
    assert "60 weights" in printed
    structure = json.loads(Path("found/found.json").read_text())
    network = nasopt.restore(load_model("my_searches.py:build"), structure)
    network.load_state_dict(torch.load("found/found.pt", weights_only=True))
    assert network_cost(network, "size", (4,)) <= 60
    assert {path.name for path in Path("found").iterdir()} == {"found.json", "found.pt", "checkpoint.pt"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "size=1", "--epochs", "18"], "the smallest network of this search space costs"),
        (["--budget", "size", "--epochs", "18"], "give METRIC=LIMIT"),
        (["--budget", "size=many", "--epochs", "18"], "give METRIC=LIMIT"),
        (["--budget", "sizes=60", "--epochs", "18"], "unknown metric 'sizes'"),
        (["--budget", "size=60,size=50", "--epochs", "18"], "limited twice"),
        (["--budget", "size=nan", "--epochs", "18"], "finite number > 0"),
        (["--budget", "size=60", "--epochs", "many"], "give a number, or three"),
        (["--budget", "size=60", "--epochs", "0"], "epochs"),
        (["--budget", "size=60", "--epochs", "18", "--method", "pitt"], "Did you mean 'pit'?"),
        (["--budget", "size=60", "--epochs", "18", "--seed", str(2**70)], "from 0 to 2**63 - 1"),
        (["--budget", "size=60", "--epochs", "18", "--lr", "nan"], "--lr must be a finite number > 0"),
        (
            ["--budget", "size=60", "--epochs", "18", "--output", "my_searches.py"],
            "cannot be made a folder: File exists",
        ),
        (["--budget", "size=60", "--epochs", "18", "--output", "a\0b"], "cannot be made a folder: embedded null"),
        (["--budget", "size=60", "--epochs", "18", "--val", "my_searches.py:broken"], "fails: OSError: no data"),
        (["--budget", "size=60", "--epochs", "18", "--val", "my_searches.py:no"], "has no 'no'"),
        (["--budget", "size=60", "--epochs", "18", "--config", "none.yaml"], "cannot be read"),
    ],
)
def test_what_cannot_be_searched(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(Path.cwd().rglob("*.pt"))
    with pytest.raises(SystemExit):
        main([*WORDS, "--budget", "size=60", "--epochs", "18", "--threads", "0"])


def test_required_options_may_stand_in_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("yaml")
    given = {"train": "my_searches.py:train", "val": "my_searches.py:val", "budget": "size = 1", "epochs": [3, 8, 2]}
    Path("own.yaml").write_text(json.dumps(given))
    assert main(["search", "my_searches.py:build", "--config", "own.yaml"]) == 2
    assert "the limit on size is 1 weights" in capsys.readouterr().err
    for words in (["--config"], ["--config", "own.yaml", "--epochz", "3"]):
        with pytest.raises(SystemExit):
            main(["search", "my_searches.py:build", *words])
        assert "error: " in capsys.readouterr().err


def test_options_from_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("yaml")
    assert main([*WORDS, "--budget", "size=60", "--epochs", "18", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert "epochs: '18'" in printed
    assert "size=60" in printed
