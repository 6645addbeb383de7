"""Sweeps: nothing lost, nothing repeated, failures recorded."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
from stub_jobs import leave_result

from benchmarks_mlperf_tiny import commands
from benchmarks_mlperf_tiny.cli import main
from benchmarks_mlperf_tiny.errors import BenchmarkError, CheckpointError, FolderLockedError
from benchmarks_mlperf_tiny.jobs import Table, finished, prepare_job, run_job, warmup_file
from benchmarks_mlperf_tiny.limits import parse_seeds, parse_strengths
from benchmarks_mlperf_tiny.lock import locked
from benchmarks_mlperf_tiny.runner import LocalRunner, Outcome
from benchmarks_mlperf_tiny.sweep import Sweep
from benchmarks_mlperf_tiny.tasks import TASKS
from benchmarks_mlperf_tiny.training import Engine

MAIN = [sys.executable, str(Path(__file__).parent / "tiny_main.py")]


@pytest.fixture(autouse=True)
def _tiny_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "tiny", tiny.TASK)


def comparable(folder: Path) -> list[Any]:
    """All that a sweep has found, without the seconds, and the checksum in which they are."""
    found = []
    for path in sorted(folder.glob("jobs/*/summary.json")):
        summary = json.loads(path.read_text())
        for side in ("seed", "found"):
            del summary[side]["seconds"]
        del summary["sha256"]
        found.append((path.parent.name, summary, (path.parent / "found_weights.pt").read_bytes()))
    return found


class HereRunner:
    """Executes jobs in this process and counts them; those named in `broken` fail."""

    def __init__(self, broken: str = "nothing") -> None:
        self.broken, self.executed = broken, 0

    def run(self, folders: Sequence[Path]) -> Iterator[Outcome]:
        for folder in folders:
            if self.broken in folder.name:
                yield Outcome(folder, 1, "it broke")
                continue
            run_job(folder)
            self.executed += 1
            yield Outcome(folder, 0, "")


def sweep(
    folder: Path, runner: Any, methods: Sequence[str] = ("seed",), seeds: Sequence[int] = (0, 1), **options: Any
) -> Any:
    return Sweep(folder, tiny.TASK, None, methods, seeds, runner, quiet=True, **options).grid([1.0])


def test_strengths() -> None:
    assert parse_strengths("1e-7:1e-4:4") == [1e-7, 1e-6, 1e-5, 1e-4]
    assert parse_strengths("3,0.5") == [3, 0.5]
    assert parse_strengths("2:2:1") == [2]
    assert parse_strengths("0,1") == [0, 1]


@pytest.mark.parametrize(
    "text",
    ["", "a", "1:2", "1:2:x", "0:1:3", "-1:1:3", "2:1:3", "1:2:0", "1:2:1", "1:1:2", "nan", "inf:inf:2", "1,1", "-1"],
)
def test_strengths_that_make_no_sense(text: str) -> None:
    with pytest.raises(BenchmarkError, match=r"strengths .*give low:high:count"):
        parse_strengths(text)


def test_seeds() -> None:
    assert parse_seeds("3,1") == [3, 1]
    for text in ("", "1,1", "a"):
        with pytest.raises(BenchmarkError, match="seeds"):
            parse_seeds(text)


def test_one_row_per_network_and_nothing_repeated(tmp_path: Path) -> None:
    runner = HereRunner()
    sweep(tmp_path, runner)
    first = (tmp_path / "networks.csv").read_text()
    with open(tmp_path / "networks.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    # A plain seed is trained once per seed, whatever the strengths; here it is also the method.
    assert [(row["method"], row["seed"], row["status"]) for row in rows] == [("seed", s, "done") for s in "01"]
    assert int(rows[0]["macs"]) > 0
    executed = runner.executed
    sweep(tmp_path, runner)
    assert runner.executed == executed
    assert (tmp_path / "networks.csv").read_text() == first
    sweep(tmp_path, runner, seeds=(0, 1, 2))
    assert runner.executed == executed + 1


def test_failures_are_recorded_and_tried_again(tmp_path: Path) -> None:
    rows = sweep(tmp_path, HereRunner(broken="s1"))
    assert [(row["status"], row["error"]) for row in rows] == [("done", ""), ("failed", "it broke")]
    rows = sweep(tmp_path, HereRunner())
    assert [row["status"] for row in rows] == ["done", "done"]


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    sweep(tmp_path, HereRunner())
    with pytest.raises(BenchmarkError, match=r"holds a job with other settings \(lr 0\.01 there, 0\.02 here\)"):
        sweep(tmp_path, HereRunner(), seeds=[0], settings={"lr": 0.02})


def test_strengths_share_their_warmup_and_it_does_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = []
    train_epoch = Engine.train_epoch

    def counting(self: Engine, *arguments: Any) -> float:
        epochs.append(1)
        return train_epoch(self, *arguments)

    monkeypatch.setattr(Engine, "train_epoch", counting)
    settings = [tiny.config("pit", strength=strength, warmup=3) for strength in (0.5, 5.0)]
    for config in settings:
        run_job(prepare_job(tmp_path / "shared", config, None))
    assert len(epochs) == 3 + 2 * (2 + 2), "one warm-up of 3, two searches of 2, two fine-tunings of 2"
    assert len(list((tmp_path / "shared" / "warmups").iterdir())) == 1
    run_job(prepare_job(tmp_path / "alone", settings[1], None))
    (alone,) = comparable(tmp_path / "alone")
    assert alone in comparable(tmp_path / "shared")
    other = tiny.config("pit", strength=5.0, warmup=3, seed=1)
    run_job(prepare_job(tmp_path / "shared", other, None))
    assert len(list((tmp_path / "shared" / "warmups").iterdir())) == 2, "another seed warms up by itself"


def test_fresh_discards_what_was_interrupted(tmp_path: Path) -> None:
    config = tiny.config("pit", strength=1.0)
    (tmp_path / "warmups").mkdir()
    job = prepare_job(tmp_path, config, None)
    (job / "checkpoint.pt").write_bytes(b"damaged")
    warmup_file(job, json.loads((job / "job.json").read_text()), config).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is no checkpoint.*--fresh"):
        run_job(job)
    (job / "checkpoint.pt").unlink()
    with pytest.raises(CheckpointError, match=r"tiny-patterns-pit-s0-\w+\.pt is no checkpoint.*--fresh"):
        run_job(job)
    rows = sweep(tmp_path, HereRunner(), methods=["pit"], seeds=[0], fresh=True)
    assert {row["status"] for row in rows} == {"done"}


def test_nothing_starts_with_an_unknown_method(tmp_path: Path) -> None:
    runner = HereRunner()
    with pytest.raises(BenchmarkError, match="unknown method"):
        sweep(tmp_path, runner, methods=("seed", "pitt"))
    assert runner.executed == 0
    assert not list(tmp_path.iterdir())


def test_two_sweeps_in_one_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(FolderLockedError, match="in use by process"):
        sweep(tmp_path, HereRunner())


def test_a_folder_without_job_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"no usable job\.json.*through `sweep`"):
        run_job(tmp_path)


def test_a_process_that_dies_says_why(tmp_path: Path) -> None:
    folders = [prepare_job(tmp_path, tiny.config(seed=seed), None) for seed in (0, 1)]
    code = "import os, sys; print('one'); print('error: two', file=sys.stderr); sys.exit(3)"
    outcomes = list(LocalRunner(2, 1, [sys.executable, "-c", code]).run(folders))
    assert {(outcome.code, outcome.message) for outcome in outcomes} == {(3, "two")}
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    (outcome,) = LocalRunner(2, 1, [sys.executable, "-c", code]).run(folders[:1])
    assert "SIGKILL" in outcome.message


def test_a_stopped_runner_stops_its_processes(tmp_path: Path) -> None:
    folders = [prepare_job(tmp_path, tiny.config(seed=seed), None) for seed in (0, 1)]
    code = (
        "import sys, time, os; from pathlib import Path; folder = Path(sys.argv[1])\n"
        "(folder / 'pid').write_text(str(os.getpid()))\n"
        "time.sleep(0 if folder.name.endswith('0') else 100)"
    )
    outcomes = LocalRunner(2, 1, [sys.executable, "-c", code]).run(folders)
    next(outcomes)
    pid = folders[1] / "pid"
    while not pid.exists() or not pid.read_text():
        time.sleep(0.02)
    outcomes.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_failed_search_is_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"job": "ic-pit-1", "status": "done", "error": ""},
        {"job": "ic-pit-2", "status": "failed", "error": "it broke"},
    ]
    monkeypatch.setattr(commands.Sweep, "grid", lambda *_, **__: rows)
    assert main(["sweep", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "failed: ic-pit-2: it broke" in printed.out
    assert "1 of 2 searches have no result (ic-pit-2)" in printed.err


def test_a_damaged_file_costs_one_row_and_is_made_again(tmp_path: Path) -> None:
    configs = [tiny.config("pit", strength=float(strength)) for strength in (1, 2, 3)]
    jobs = [prepare_job(tmp_path, config, None) for config in configs]
    for job in jobs:
        leave_result(job)
    assert [row["status"] for row in Table(tmp_path).rows()] == ["done"] * 3
    for path in (jobs[0] / "job.json", jobs[1] / "summary.json"):
        path.write_bytes(path.read_bytes()[:-9])
    rows = {row["job"]: row for row in Table(tmp_path).rows()}
    assert [rows[job.name]["status"] for job in jobs] == ["failed", "failed", "done"]
    assert "job.json cannot be read" in rows[jobs[0].name]["error"]
    assert "summary.json cannot be read" in rows[jobs[1].name]["error"]
    assert [finished(job) for job in jobs] == [True, False, True]
    assert [prepare_job(tmp_path, config, None) for config in configs] == jobs
    assert [row["status"] for row in Table(tmp_path).rows()] == ["done", "failed", "done"]
