"""The arena: one row per network, nothing computed twice, limits kept, standard errors by hand."""

from __future__ import annotations

import csv
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
from torch import nn

import nasopt
from benchmarks.arena import contestants
from benchmarks.arena.__main__ import main
from benchmarks.arena.contestants import Bout, Trainer
from benchmarks_mlperf_tiny.tasks import TASKS
from nasopt.cost import network_cost
from nasopt.search import importance

WHERE = ["--task", "tiny", "--data", "patterns", "--epochs", "1+4+1", "--jobs", "1"]


@pytest.fixture(autouse=True)
def _tiny_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "tiny", tiny.TASK)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_there_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[float, int]] = []

    def stub(trainer: Trainer) -> dict[str, Any]:
        bout = trainer.bout
        calls.append((bout.share, bout.seed))
        if len(calls) == 2:
            raise RuntimeError("it broke\nand more")
        return {"size": int(trainer.limit), "macs": 1, "exported": 0.1, "test": bout.share + 0.1 * bout.seed}

    monkeypatch.setitem(contestants.METHODS, "stub", stub)
    path = tmp_path / "arena.csv"
    command = [*WHERE, "--methods", "stub", "--shares", "0.5", "--seeds", "0,1,2", "--out", str(path)]
    main(command)
    assert [(row["seed"], row["test"], row["note"]) for row in rows(path)] == [
        ("0", "0.5", ""),
        ("1", "", "RuntimeError: it broke"),
        ("2", "0.7", ""),
    ]
    main(command)
    assert calls == [(0.5, 0), (0.5, 1), (0.5, 2), (0.5, 1)], "what failed is tried again"
    capsys.readouterr()
    main([*command, "--report", "--plot", str(tmp_path / "arena.png")])
    assert len(calls) == 4
    # 50, 60, 70 %: mean 60, standard error 10 / sqrt(3). Half of the size at those: areas of 25, 30, 35 %, 5 / sqrt(3).
    assert "| stub | 60.00 +- 5.77 (" in (shown := capsys.readouterr().out)
    assert "| 30." in shown
    assert "+- 2.8" in shown
    assert (tmp_path / "arena.png").read_bytes().startswith(b"\x89PNG")


def test_the_others_keep_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def narrow(_classes: int, scale: float) -> nn.Module:
        channels = max(1, round(8 * scale))
        layers = [nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(channels, 2))

    monkeypatch.setitem(contestants.NARROW, "tiny", narrow)
    monkeypatch.setattr(nasopt, "prune_quantised", partial(nasopt.prune_quantised, trials=(1, 1)))
    limit = 0.5 * network_cost(tiny.build_seed(2), "size", (1, 8, 8))
    for method, epochs in (("uniform", "1+4+1"), ("pit", "1+4+1"), ("black_box", "1+1+1")):
        row = contestants.compete(Bout("tiny", "patterns", epochs, method, 0.5, 0))
        assert "note" not in row
        assert 0 < row["size"] <= limit
        assert 0 <= row["exported"] <= 1
        assert 0 <= row["test"] <= 1


def test_importance_with_other_settings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[importance.Ranking] = []
    plain = importance.Importance.__init__

    def noted(self: importance.Importance, *arguments: Any) -> None:
        seen.append(importance.RANKING)
        plain(self, *arguments)

    monkeypatch.setattr(importance.Importance, "__init__", noted)
    limit = 0.5 * network_cost(tiny.build_seed(2), "size", (1, 8, 8))
    for method in ("importance", "importance:fall=0.5:power=1"):
        row = contestants.compete(Bout("tiny", "patterns", "1+8+1", method, 0.5, 0))
        assert "note" not in row
        assert row["method"] == method
        assert 0 < row["size"] <= limit
    assert seen[0] == importance.RANKING
    assert (seen[1].fall, seen[1].power, seen[1].memory) == (0.5, 1.0, seen[0].memory)
    for wrong in ("importance:fail=0.5", "importance:fall=soon", "importance:fall"):
        with pytest.raises(SystemExit):
            main([*WHERE, "--methods", wrong])
        assert "settings are name=number, of memory, look, fall" in capsys.readouterr().err


def test_a_limit_that_cannot_be_met_is_a_note() -> None:
    row = contestants.compete(Bout("tiny", "patterns", "1+4+1", "pit", 0.001, 0))
    assert "the smallest network of this search space costs" in row["note"]


def test_another_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "other.py"
    script.write_text('import json, sys; print("a log"); print(json.dumps({"size": int(sys.argv[1]), "test": 0.5}))')
    path = tmp_path / "arena.csv"
    command = f"other={sys.executable} {script} {{limit}} {{seed}}"
    main([*WHERE, "--methods", "", "--command", command, "--shares", "0.5", "--seeds", "0", "--out", str(path)])
    (row,) = rows(path)
    assert (row["method"], int(row["size"]), row["test"]) == ("other", 682 // 2, "0.5")
    assert json.loads(json.dumps(row))["note"] == ""
    with pytest.raises(SystemExit):
        main([*WHERE, "--methods", "nobody"])
    assert "unknown methods nobody" in capsys.readouterr().err


def test_torch_pruning_meets_the_limit() -> None:
    pytest.importorskip("torch_pruning")
    row = contestants.compete(Bout("tiny", "patterns", "1+2+1", "taylor", 0.5, 0))
    assert "note" not in row
    assert 0 < row["size"] <= 0.5 * network_cost(tiny.build_seed(2), "size", (1, 8, 8))
