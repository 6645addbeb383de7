"""600 random damages of each kind of file that holds a result: structure, checkpoint, summary, weights; none is read silently."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from damage import damages
from torch import nn

from benchmarks_mlperf_tiny.config import make_config
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.errors import BenchmarkError, DamagedFileWarning
from benchmarks_mlperf_tiny.files import load_checkpoint, read_json, save_checkpoint
from benchmarks_mlperf_tiny.search import Run
from benchmarks_mlperf_tiny.summary import load_result, save_result, summarise
from benchmarks_mlperf_tiny.tasks import TASKS
from nasopt import PIT
from nasopt.errors import ConfigError
from nasopt.search.structure import check_structure

COUNT = 600


def without_seal(content: Any) -> Any:
    return {key: value for key, value in content.items() if key != "sha256"}


def test_structures() -> None:
    seed = nn.Sequential(nn.Conv2d(3, 16, 5), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
    model = PIT(seed, (3, 16, 16))
    with torch.no_grad():
        model.alpha[::3] = 0
        model.beta[::2] = 0
    structure = model.arch_structure()
    refused = 0
    for bad in damages(json.dumps(structure).encode(), COUNT, 0):
        try:
            read = json.loads(bad)
            check_structure(read)
        except (ValueError, ConfigError):
            refused += 1
            continue
        assert without_seal(read) == without_seal(structure), bad
    print(f"structures: {refused} of {COUNT} refused, the others are spelt differently and hold the same values")


def test_checkpoints(tmp_path: Path) -> None:
    path, config = tmp_path / "checkpoint.pt", {"seed": 0}
    save_checkpoint(path, config, {"epoch": 1})
    save_checkpoint(path, config, {"epoch": 2, "w": torch.randn(500)})
    for bad in damages(path.read_bytes(), COUNT, 1):
        path.write_bytes(bad)
        with pytest.warns(DamagedFileWarning):
            assert load_checkpoint(path, config) == {"epoch": 1}


def test_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "tiny", tiny.TASK)
    config = make_config(tiny.TASK, None, "pit", strength=5.0)
    data = tiny.load(DataOptions())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Run(config, tiny.TASK, data, quiet=True).run()
    save_result(tmp_path, summarise(config, tiny.TASK, tiny.build_seed(2), None, found, True), found)
    for name, check in (("summary.json", read_json), ("found_weights.pt", lambda path: load_result(path.parent))):
        good, refused, respelt = (tmp_path / name).read_bytes(), 0, 0
        known = without_seal(json.loads(good)) if name.endswith("json") else None
        for bad in damages(good, COUNT, 2):
            (tmp_path / name).write_bytes(bad)
            try:
                read: Any = check(tmp_path / name)
            except BenchmarkError as error:
                refused += name in str(error)
            else:
                refused += 1
                assert known is not None
                assert without_seal(read) == known, bad
                respelt += 1
        (tmp_path / name).write_bytes(good)
        assert refused == COUNT
        print(
            f"{name}: {COUNT - respelt} of {COUNT} refused with their name, {respelt} hold the same values in another spelling"
        )
