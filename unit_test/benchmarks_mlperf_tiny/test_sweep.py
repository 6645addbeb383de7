"""Sweeps: nothing lost, nothing repeated, failures recorded."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny

from benchmarks_mlperf_tiny.errors import BenchmarkError, CheckpointError, FolderLockedError
from benchmarks_mlperf_tiny.files import locked
from benchmarks_mlperf_tiny.jobs import prepare_job, run_job, warmup_file
from benchmarks_mlperf_tiny.limits import parse_seeds, parse_strengths
from benchmarks_mlperf_tiny.runner import LocalRunner, Outcome
from benchmarks_mlperf_tiny.sweep import Sweep
from benchmarks_mlperf_tiny.tasks import TASKS
from benchmarks_mlperf_tiny.training import Engine

MAIN = [sys.executable, str(Path(__file__).parent / "tiny_main.py")]


@pytest.fixture(autouse=True)
def _tiny_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "tiny", tiny.TASK)


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
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt cannot be read.*--fresh"):
        run_job(job)
    (job / "checkpoint.pt").unlink()
    with pytest.raises(CheckpointError, match=r"tiny-patterns-pit-s0-\w+\.pt cannot be read.*--fresh"):
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


@pytest.mark.benchmark
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_clean_stop(stop: signal.Signals, tmp_path: Path) -> None:
    """One signal to the sweep alone: it stops its job, keeps the checkpoint, and leaves no process behind."""
    process = sweep_process(tmp_path, "--warmup", "100000", stderr=subprocess.PIPE)
    while not (found := list(tmp_path.glob("jobs/*/checkpoint.pt"))):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(stop)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"goes on from the last checkpoint" in error
    assert b"Traceback" not in error
    with locked(found[0].parent):  # its job is gone
        assert found[0].exists()


def comparable(folder: Path) -> list[Any]:
    """All that a sweep has found, without the seconds."""
    found = []
    for path in sorted(folder.glob("jobs/*/summary.json")):
        summary = json.loads(path.read_text())
        for side in ("seed", "found"):
            del summary[side]["seconds"]
        found.append((path.parent.name, summary, (path.parent / "found_weights.pt").read_bytes()))
    return found


def sweep_process(folder: Path, *more: str, **options: Any) -> subprocess.Popen[bytes]:
    arguments = ["sweep", "--task", "tiny", "--method", "pit", "--strengths", "1", "--jobs", "2", "--threads", "1"]
    command = [*MAIN, *arguments, "--out", str(folder), "--quiet", "--warmup", "10", "--search", "30", *more]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in a background
        **options,
    )


def interrupt_and_resume(folder: Path, seconds: float) -> bool:
    """Press Ctrl-C after so long: a stop without a traceback. Then let the same command finish; whether it was cut off."""
    process = sweep_process(folder, stderr=subprocess.PIPE)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)  # a terminal tells the whole group
    _, error = process.communicate(timeout=60)
    assert b"Traceback" not in error, error.decode()
    if process.returncode == 0:
        return False
    assert process.returncode == 130
    assert sweep_process(folder).wait() == 0
    return True


def kill_and_resume(folder: Path, seconds: float) -> bool:
    """Kill a sweep and all its processes after so long, then let the same command finish; whether it was cut off."""
    process = sweep_process(folder)
    try:
        process.wait(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert sweep_process(folder).wait() == 0
    return True


@pytest.mark.benchmark
@pytest.mark.parametrize("stop", [kill_and_resume, interrupt_and_resume])
def test_twenty_stopped_sweeps_end_as_an_uninterrupted_one(stop: Callable[[Path, float], bool], tmp_path: Path) -> None:
    started = time.monotonic()
    assert sweep_process(tmp_path / "whole").wait() == 0
    duration = time.monotonic() - started
    expected = comparable(tmp_path / "whole")
    assert len(expected) >= 1
    moments = random.Random(0)
    cut = 0
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        cut += stop(folder, moments.uniform(0.1, 0.95) * duration)
        found = comparable(folder)
        assert [name for name, _, _ in found] == [name for name, _, _ in expected], f"attempt {attempt}"
        for (name, summary, weights), (_, whole, whole_weights) in zip(found, expected, strict=True):
            differing = [key for key in whole if summary.get(key) != whole[key]]
            assert not differing, f"attempt {attempt}, job {name}: {differing} differ; is the code edited meanwhile?"
            assert weights == whole_weights, f"attempt {attempt}, job {name}: weights differ, figures are equal"
        print(f"attempt {attempt}: identical", flush=True)
    print(f"{cut} of 20 sweeps were cut off; all 20 ended like the uninterrupted one")
    assert cut >= 15
