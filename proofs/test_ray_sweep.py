"""Real searches on a Ray cluster that the sweep starts itself; one worker is killed in the middle."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks_mlperf_tiny.config import RunConfig
from benchmarks_mlperf_tiny.jobs import prepare_job, run_job

pytest.importorskip("ray")
pytest.importorskip("optuna")
SWEEP = [sys.executable, "-m", "benchmarks_mlperf_tiny", "sweep", "--backend", "ray", "--jobs", "2", "--quiet"]
EPOCHS = ["--warmup", "1", "--search", "1", "--finetune", "1"]


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "networks.csv", newline="") as file:
        return list(csv.DictReader(file))


def found(job: Path) -> dict[str, Any]:
    """What a search has found, without the seconds."""
    summary: dict[str, Any] = json.loads((job / "summary.json").read_text())["found"]
    del summary["seconds"]
    return summary


def test_eight_searches_one_worker_killed(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [*SWEEP, *EPOCHS, "--strengths", "0.1:10:7", "--out", str(tmp_path / "ray")]
    process = subprocess.Popen(command, env=environment)
    killed = None
    while killed is None and process.poll() is None:
        time.sleep(0.01)
        for checkpoint in (tmp_path / "ray").glob("jobs/*pit*/checkpoint.pt"):
            killed = checkpoint.parent
            os.kill(int((killed / ".owner").read_text()), signal.SIGKILL)
            break
    assert killed is not None
    assert process.wait() == 0
    table = rows(tmp_path / "ray")
    assert len(table) == 8
    assert len({(row["method"], row["strength"]) for row in table}) == 8
    assert {row["status"] for row in table} == {"done"}
    config = RunConfig(**json.loads((killed / "job.json").read_text())["config"])
    alone = prepare_job(tmp_path / "alone", config, None)
    run_job(alone)
    assert found(alone) == found(killed), "the search that was cut off ends as one that was not"

    command = [*SWEEP, *EPOCHS, "--sampler", "optuna", "--strengths", "0.1:10", "--trials", "4"]
    subprocess.run([*command, "--out", str(tmp_path / "ray")], env=environment, check=True)
    strengths = sorted(float(row["strength"]) for row in rows(tmp_path / "ray") if row["method"] == "pit")
    # 0.1, 10 and 1 were there; of the four probes 0.3162 is new.
    assert strengths == [0.1, 0.2154, 0.3162, 0.4642, 1, 2.154, 4.642, 10]
