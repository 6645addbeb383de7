"""A search by several processes ends as one by a single process does, and only the first process reads and writes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TASK, build_seed, config, load
from torch import nn
from worlds import World

from benchmarks_mlperf_tiny.cli import main
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.outcome import RunResult
from benchmarks_mlperf_tiny.processes import share
from benchmarks_mlperf_tiny.search import Run


def plain_seed(num_classes: int) -> nn.Module:
    """Without dropout, which draws for each share, and biases before norms, whose gradient is rounding (Adam enlarges it)."""
    layers = [layer for layer in build_seed(num_classes) if not isinstance(layer, nn.Dropout)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            layer.bias = None
    return nn.Sequential(*layers)


def finish(folder: Path, **changes: Any) -> RunResult:
    """Fifteen examples make shares of eight and seven."""
    task = dataclasses.replace(TASK, seed=plain_seed)
    settings = config("pit", warmup=1, search=2, finetune=1, batch_size=15, **changes)
    return Run(settings, task, load(DataOptions()), folder / "checkpoint.pt", quiet=True).run()


def work(rank: int, count: int, folder: Path) -> dict[str, Any]:
    own = folder / str(rank)
    found = finish(own)
    said = ""
    try:
        finish(own, seed=1, compile=True)
    except BenchmarkError as error:
        said = str(error)
    # As after a kill: what the first process has saved is a finished run, and the others have no file at all.
    again = finish(own)
    try:
        share(torch.zeros(1, 2))
    except BenchmarkError as error:
        said += str(error)
    return {"found": plain(found), "again": plain(again), "files": len(list(own.glob("*"))), "said": said}


def plain(found: RunResult) -> dict[str, Any]:
    outputs = found.network.eval()(load(DataOptions()).test.x.float()).tolist()
    return {
        "state": {key: value.tolist() for key, value in found.network.state_dict().items()},
        "outputs": outputs,
        "history": found.history,
        "structures": json.dumps(found.structures),
        "test": found.test,
    }


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    with World(2) as world:
        first, second = world.run(work, tmp_path)
    assert first["found"] == second["found"] == first["again"] == second["again"]
    assert (first["files"], second["files"]) == (2, 0)  # the checkpoint, and the one before it
    assert "leave it out under torchrun" in first["said"]
    assert "a batch of 1 examples cannot be divided among 2 processes" in first["said"]
    alone = plain(finish(tmp_path))
    together = first["found"]
    assert together["structures"] == alone["structures"]
    assert together["test"] == pytest.approx(alone["test"], abs=0.03)
    for one, other in zip(alone["history"], together["history"], strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)
    outputs = [torch.tensor(found["outputs"]) for found in (alone, together)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-3, atol=1e-3)


def test_commands_under_torchrun(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["sweep"]) == 1
    assert "`sweep` under torchrun with 2 processes: it starts processes of its own" in capsys.readouterr().err
    assert main(["report", "--out", "nowhere"]) == 0, "the first process alone writes reports"
    monkeypatch.setenv("RANK", "0")
    assert main(["report", "--out", "nowhere"]) == 1
