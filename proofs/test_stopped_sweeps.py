"""Sweeps that are stopped, killed and resumed end as one that ran through; a search under torchrun writes the same files."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_sweep import comparable

from benchmarks_mlperf_tiny.lock import locked

SCRIPT = str(Path(tiny.__file__).parent / "tiny_main.py")
MAIN = [sys.executable, SCRIPT]


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


def test_search_under_torchrun(tmp_path: Path) -> None:
    options = ["search", "--task", "tiny", "--no-baseline", "--quiet", "--threads", "1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, start in (("one", [sys.executable]), ("two", torchrun)):
        command = [*start, SCRIPT, *options, "--out", str(tmp_path / name)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        assert run.stdout.count("Results:") == 1
    (one,), (two,) = (list((tmp_path / name).glob("*/summary.json")) for name in ("one", "two"))
    assert sorted(p.name for p in one.parent.iterdir()) == sorted(p.name for p in two.parent.iterdir())
    assert json.loads(two.read_text()).keys() == json.loads(one.read_text()).keys()
