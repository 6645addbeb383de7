"""Strengths that find the same network are named, and the gaps between networks are searched with budgets in their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.gaps import alike, between, fillings, say
from benchmarks_mlperf_tiny.jobs import Row, read_row
from benchmarks_mlperf_tiny.limits import budget_series
from benchmarks_mlperf_tiny.sweep import Sweep
from nasopt.seal import sealed
from unit_test.benchmarks_mlperf_tiny.tiny import TASK


def row(strength: float, macs: int, **changes: Any) -> Row:
    plain = {"status": "done", "method": "supernet", "seed": 0, "budget": None, "params": macs, "size": macs}
    return {**plain, "strength": strength, "macs": macs, **changes}


def test_the_cliff_of_the_issue() -> None:
    rows = [row(0.1, 120_608), row(1.0, 120_608), row(10.0, 10_016), row(30.0, 10_016), row(2.0, 10_016, seed=1)]
    assert [len(group) for group in alike(rows)] == [2, 2]
    assert say(alike(rows)[0]) == "supernet, seed 0: strengths 0.1 and 1 found the same network (120,608 MACs)"
    # Two strengths are spare. sqrt(10,016 * 120,608) = 34,756; then both gaps are of a factor 3.47, and the upper one is halved.
    assert fillings(rows, "supernet", 0, "macs", (1, 1)) == ["macs=34756", "macs=64745"]
    assert fillings(rows, "supernet", 1, "macs", (1, 1)) == []
    filled = [*rows, row(0.0, 33_000, budget="macs=34756")]
    # sqrt(33,000 * 120,608): one is left.
    assert fillings(filled, "supernet", 0, "macs", (1, 1)) == ["macs=63088"]
    assert fillings(rows, "supernet", 0, "ops", (1, 1)) == []
    assert alike([row(1.0, 5, status="failed"), row(2.0, 5)]) == []


def test_where_all_networks_are_one_the_ends_of_the_space_are_its_neighbours() -> None:
    assert between([100], (1, 100), 1) == [10]
    assert between([10], (1, 1000), 2) == pytest.approx([100, 100_000**0.5])
    assert between([100, 110], (1, 1000), 3) == []
    assert between([], (100, 100), 3) == []


def test_a_series_of_budgets() -> None:
    assert budget_series("macs=0.1:0.4:3") == ["macs=0.1", "macs=0.2", "macs=0.4"]
    assert budget_series("macs=0.1,size=300") == ["macs=0.1,size=300"]
    with pytest.raises(BenchmarkError, match="no series"):
        budget_series("macs=0.4:0.1:3")


class Stub:
    """Finds one network for all strengths up to 1, another for all above, and what a budget asks for."""

    def run(self, jobs: Any) -> Any:
        import json

        from benchmarks_mlperf_tiny.files import read_json, write_text
        from benchmarks_mlperf_tiny.runner import Outcome

        for folder in jobs:
            config = read_json(folder / "job.json")["config"]
            macs = 1000 if config["strength"] <= 1 else 10
            macs = int(config["budget"].split("=")[1]) if config["budget"] else macs
            found = {"params": macs, "size": macs, "macs": macs, "val": 1.0, "test": 0.5, "seconds": 1.0, "layers": {}}
            summary = {"config": config, "figure": "accuracy", "synthetic": True, "found": found}
            write_text(folder / "summary.json", json.dumps(sealed(summary)))
            yield Outcome(folder, 0, "")


def test_a_sweep_says_so_fills_the_gap_and_repeats_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner: Any = Stub()
    sweep = Sweep(tmp_path, TASK, None, ["pit"], [0], runner, {"regularizer": "macs"}, quiet=True)
    for _ in range(2):
        rows = [row for row in sweep.grid([0.1, 1.0, 10.0], fill=True) if row["method"] == "pit"]
        # sqrt(10 * 1000)
        assert [(row["strength"], row["budget"], row["macs"]) for row in rows] == [
            (0.0, "macs=100", 100),
            (0.1, None, 1000),
            (1.0, None, 1000),
            (10.0, None, 10),
        ]
    said = capsys.readouterr().out
    assert said.count("strengths 0.1 and 1 found the same network (1,000 MACs)") == 2
    assert said.count("nothing lies near macs=100, so that is searched for") == 1
    assert read_row(next(tmp_path.glob("jobs/*macs=100*"))) is not None
    assert len([row for row in sweep.grid([0.1, 1.0, 10.0, 20.0]) if row["method"] == "pit"]) == 5
