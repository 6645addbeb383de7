"""Strengths that Optuna proposes: nothing lost by a kill, nothing trained twice, limits respected."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stub_jobs
import tiny

from benchmarks_mlperf_tiny import measure
from benchmarks_mlperf_tiny.cli import main
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.limits import Goal, parse_range
from benchmarks_mlperf_tiny.runner import Outcome
from benchmarks_mlperf_tiny.sweep import Sweep
from benchmarks_mlperf_tiny.tasks import TASKS


@pytest.fixture(autouse=True)
def _needs_optuna() -> None:
    pytest.importorskip("optuna")


class StubRunner:
    """Jobs that train nothing, up to two at a time; each ends when the next is drawn.

    Args:
        stop_after: raises as Ctrl-C would after so many jobs, with one more in the middle.
        broken: the jobs that fail, counted from 0.
    """

    def __init__(self, stop_after: int | None = None, broken: Iterable[int] = ()) -> None:
        self.stop_after, self.broken = stop_after, set(broken)
        self.executed: list[str] = []

    def run(self, folders: Iterable[Path]) -> Iterator[Outcome]:
        for folder in folders:
            if len(self.executed) == self.stop_after:
                raise KeyboardInterrupt
            self.executed.append(folder.name)
            if len(self.executed) - 1 in self.broken:
                yield Outcome(folder, 1, "it broke")
                continue
            stub_jobs.leave_result(folder)
            yield Outcome(folder, 0, "")


def search(folder: Path, runner: Any, trials: int, goal: Goal | None = None, **changes: Any) -> Any:
    seeds = changes.pop("seeds", [0])
    bounds = changes.pop("bounds", (0.01, 100.0))
    sweep = Sweep(folder, tiny.TASK, None, changes.pop("methods", ["pit"]), seeds, runner, changes, quiet=True)
    return sweep.trade_off(bounds, trials, goal or Goal())


def strengths(rows: list[dict[str, Any]]) -> list[float]:
    return [row["strength"] for row in rows if row["method"] == "pit" and row["status"] == "done"]


def test_range() -> None:
    assert parse_range("0.1:30") == (0.1, 30)
    for text in ("", "1", "1,2", "1:2:3", "a:b", "0:1", "-1:1", "2:1", "1:1", "nan:1", "1:inf"):
        with pytest.raises(BenchmarkError, match=r"range of strengths .*give low:high"):
            parse_range(text)


def test_the_whole_range_is_probed_first(tmp_path: Path) -> None:
    runner = StubRunner()
    rows, front = search(tmp_path, runner, 5)
    assert runner.executed[0].startswith("tiny-patterns-seed"), "the plain seed, for comparison"
    assert strengths(rows) == [0.01, 0.1, 1, 10, 100]
    assert [trial["strength"] for trial in front] == pytest.approx([100, 10, 1, 0.1, 0.01]), "all of them on the front"
    assert set(front[0]) == {"method", "strength", "val", "macs"}


def test_limits_attract_and_bound_what_is_found(tmp_path: Path) -> None:
    # macs = 1000 / (1 + s), val = 1 - (s / (1 + s))^2: at most 500 MAC needs s >= 1, at least 0.5 needs s <= 2.414
    rows, front = search(tmp_path, StubRunner(), 20, Goal("macs", max_cost=500, min_figure=0.5))
    assert len(front) >= 1
    assert all(1 <= trial["strength"] <= 2.42 for trial in front)
    # The window is a tenth of the range (log): of 15 strengths at random 1.5 would lie in it.
    inside = [strength for strength in strengths(rows)[5:] if 1 <= strength <= 2.42]
    assert len(inside) >= 4


def test_a_killed_search_goes_on_to_the_same_strengths(tmp_path: Path) -> None:
    whole = StubRunner()
    expected, _ = search(tmp_path / "whole", whole, 8)
    for moment in (3, 8):
        folder = tmp_path / str(moment)
        with pytest.raises(KeyboardInterrupt):
            search(folder, StubRunner(stop_after=moment), 8)
        rest = StubRunner()
        rows, _ = search(folder, rest, 8)
        assert strengths(rows) == strengths(expected), f"killed after {moment}"
        assert len(rest.executed) == len(whole.executed) - moment, "what was finished is not repeated"
    more = StubRunner()
    rows, _ = search(tmp_path / "whole", more, 10)
    assert len(more.executed) == 2
    assert len(strengths(rows)) == 10
    again = StubRunner()
    search(tmp_path / "whole", again, 10)
    assert again.executed == []


def test_failures_are_recorded_and_tried_again(tmp_path: Path) -> None:
    rows, front = search(tmp_path, StubRunner(broken=[2, 4]), 6)
    assert [row["error"] for row in rows if row["status"] == "failed"] == ["it broke"] * 2
    assert len(front) == 4
    runner = StubRunner()
    rows, front = search(tmp_path, runner, 6)
    assert len(runner.executed) == 2
    assert [row["status"] for row in rows] == ["done"] * 7
    assert len(front) == 6


def test_a_trial_counts_with_the_mean_over_its_seeds(tmp_path: Path) -> None:
    rows, front = search(tmp_path, StubRunner(), 2, seeds=[0, 1])
    assert len(rows) == 2 + 2 * 2, "two plain seeds, two trials of two networks"
    assert len(front) == 2
    assert front[0]["macs"] == pytest.approx(1000 / 1.1 if front[0]["strength"] < 1 else 1000 / 101, rel=0.1)


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    search(tmp_path, StubRunner(), 1)
    with pytest.raises(
        BenchmarkError, match=r"with other settings \(lr 0\.01 there, 0\.02 here\): choose another --out"
    ):
        search(tmp_path, StubRunner(), 1, lr=0.02)
    (tmp_path / "trials.db").write_text("no data base")
    with pytest.raises(BenchmarkError, match=r"trials\.db cannot be used .*remove it, finished networks are kept"):
        search(tmp_path, StubRunner(), 1)


def test_what_can_be_traded_is_what_networks_tell() -> None:
    assert set(measure.costs(tiny.build_seed(2), (1, 8, 8))) == set(measure.COSTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sampler", "tpe"], "unknown sampler 'tpe': known are grid and optuna"),
        (["--sampler", "optuna", "--strengths", "0.1:1:5"], "range of strengths '0.1:1:5'"),
        (["--sampler", "optuna", "--trials", "0"], "--trials 0: at least one"),
        (["--sampler", "optuna", "--cost", "mac"], "unknown cost 'mac': known are params, size, size_bits, flash"),
        (["--sampler", "optuna", "--max-cost", "-5"], "largest cost -5"),
        (["--sampler", "optuna", "--max-cost", "nan"], "largest cost nan"),
        (["--sampler", "optuna", "--min-figure", "95"], "give 0.95 for 95 %"),
        (["--sampler", "optuna", "--method", "seed,pit"], "method 'seed' has no strength"),
        (["--sampler", "optuna", "--method", "pitt"], "unknown method 'pitt'"),
        (["--trials", "5"], "--trials is for strengths that Optuna proposes: add --sampler optuna"),
        (["--max-cost", "5"], "--max-cost is for strengths that Optuna proposes"),
    ],
)
def test_options_that_make_no_sense(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "--out", str(tmp_path / "out"), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_optuna_its_pip_command_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)  # type: ignore[arg-type]
    assert main(["sweep", "--sampler", "optuna", "--out", str(tmp_path / "out")]) == 1
    assert 'pip install "nasopt[optuna]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_prints_the_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TASKS, "tiny", tiny.TASK)
    monkeypatch.setattr("benchmarks_mlperf_tiny.commands.LocalRunner", lambda *_arguments: StubRunner())
    command = ["sweep", "--task", "tiny", "--sampler", "optuna", "--trials", "5", "--out", str(tmp_path), "--quiet"]
    assert main([*command, "--strengths", "0.5:2"]) == 0
    printed = capsys.readouterr().out
    assert "6 networks in" in printed
    assert "trade-off: pit strength 2: val 55.56 %, macs 333.3333333" in printed
    assert main([*command, "--strengths", "0.5:2", "--max-cost", "1"]) == 0
    assert "No network lies within the limits" in capsys.readouterr().out
    names = [json.loads(path.read_text())["config"]["strength"] for path in tmp_path.glob("jobs/*pit*/job.json")]
    assert sorted(names) == [0.5, 0.7071, 1, 1.414, 2], "a second goal takes what the first has found"
