"""Jobs on a Ray cluster: each executed to its end, whatever happens to its worker; one local cluster for all tests."""

from __future__ import annotations

import collections
import csv
import gc
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stub_jobs
import tiny

from benchmarks_mlperf_tiny import ray_runner
from benchmarks_mlperf_tiny.cli import main
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.jobs import prepare_job
from benchmarks_mlperf_tiny.ray_runner import RayRunner
from benchmarks_mlperf_tiny.runner import Outcome
from benchmarks_mlperf_tiny.sweep import Sweep


@pytest.fixture(scope="module", autouse=True)
def ray() -> Any:
    return pytest.importorskip("ray")


@pytest.fixture(scope="module")
def _cluster(ray: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.cloudpickle.register_pickle_by_value(stub_jobs)
        with RayRunner(jobs=3).connection():
            with warnings.catch_warnings():  # Ray leaves handles of its processes behind when it starts a second time
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()
            yield


def jobs(folder: Path, seeds: int) -> list[Path]:
    return [prepare_job(folder, tiny.config(seed=seed), None) for seed in range(seeds)]


def kill(pid: Path) -> None:
    os.kill(int(stub_jobs.wait_for(pid)), signal.SIGKILL)


@pytest.mark.usefixtures("_cluster")
def test_eight_jobs_one_worker_killed_eight_rows(tmp_path: Path) -> None:
    victim = jobs(tmp_path, 4)[3]
    killer = threading.Thread(target=kill, args=[victim / "pid"])
    killer.start()
    runner = RayRunner(jobs=3, job=stub_jobs.ten_steps)
    rows = Sweep(tmp_path, tiny.TASK, None, ["seed"], range(8), runner, quiet=True).grid([1.0])
    killer.join()
    assert [(row["seed"], row["status"]) for row in rows] == [(seed, "done") for seed in range(8)]
    with open(tmp_path / "networks.csv", newline="") as file:
        assert [row["seed"] for row in csv.DictReader(file)] == [str(seed) for seed in range(8)]
    executions = {path.parent: path.read_text().split() for path in tmp_path.glob("jobs/*/executions")}
    assert sorted(len(pids) for pids in executions.values()) == [1] * 7 + [2]
    assert len(set(executions[victim])) == 2, "another process went on"
    steps = collections.Counter((victim / "steps").read_text().split())
    assert steps == {**{str(step): 1 for step in range(10)}, "5": 2}, "only the step that was cut off is repeated"


@pytest.mark.usefixtures("_cluster")
def test_failures_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_runner, "RETRIES", 1)
    folders = jobs(tmp_path, 3)
    elsewhere = tmp_path / "elsewhere"
    outcomes = {o.folder: o for o in RayRunner(jobs=3, job=stub_jobs.go_wrong).run([*folders, elsewhere])}
    assert outcomes[folders[0]] == Outcome(folders[0], 1, "ValueError: it broke")
    log = (folders[0] / "log.txt").read_text()
    assert log.startswith("a word in the log\n")
    assert "Traceback" in log
    assert outcomes[folders[1]].code == 1
    assert outcomes[folders[1]].message.startswith("the worker was lost 2 times (WorkerCrashedError")
    assert outcomes[folders[2]] == Outcome(folders[2], 0, "")
    assert "file system that all machines share" in outcomes[elsewhere].message


@pytest.mark.usefixtures("_cluster")
def test_a_stopped_runner_stops_its_jobs(tmp_path: Path) -> None:
    folders = jobs(tmp_path, 3)
    outcomes = RayRunner(jobs=2, job=stub_jobs.last_long).run(iter(folders))
    assert next(outcomes).folder == folders[0]
    pid = int(stub_jobs.wait_for(folders[1] / "pid"))
    outcomes.close()  # type: ignore[attr-defined]
    end = time.monotonic() + 300
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    assert not (folders[2] / "pid").exists(), "a job is drawn when there is room for it"


@pytest.mark.usefixtures("_cluster")
def test_a_job_waits_for_what_it_asks_for() -> None:
    assert RayRunner(num_cpus=1).places() == 3
    assert RayRunner(num_cpus=0.5).places() == 6
    assert RayRunner(num_cpus=2).places() == 1
    assert RayRunner(num_cpus=4).places() == 0
    assert RayRunner(num_gpus=0.5).places() == 0


def test_a_local_cluster_without_room_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    calls: list[Any] = []
    machine = {"Alive": True, "Resources": {"CPU": 2.0}}
    fake = SimpleNamespace(
        is_initialized=lambda: False,
        init=lambda **options: calls.append(options),
        nodes=lambda: [machine],
        shutdown=lambda: calls.append("shutdown"),
    )
    monkeypatch.setitem(sys.modules, "ray", fake)  # type: ignore[arg-type]
    runner = RayRunner(jobs=4, num_cpus=0.5, num_gpus=1)
    with pytest.raises(BenchmarkError, match=r"no machine .* has 0\.5 CPU and 1 GPU.*smaller --num-cpus"):
        list(runner.run([]))
    assert calls[0]["address"] == "local"
    assert calls[0]["num_cpus"] == 2, "as many as four jobs of half a CPU need"
    assert calls[1:] == ["shutdown"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense", "host:port"])
def test_a_cluster_that_cannot_be_reached(
    address: str, ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_NUM_REDIS_GET_RETRIES", "2")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert main(["sweep", "--backend", "ray", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: no Ray cluster answers at RAY_ADDRESS={address} (")
    for cure in ("ray start --head", "leave RAY_ADDRESS unset", "--backend local"):
        assert cure in error
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_ray_refuses(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setenv("RAY_NUM_REDIS_GET_RETRIES", "2")

    def refuse(**_options: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(
        BenchmarkError, match=r"at RAY_ADDRESS=auto \(ConnectionError: Could not find.*ray start --head"
    ):
        list(RayRunner().run([]))


def test_a_slow_machine_gets_a_second_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    starts = []

    def init(**options: Any) -> None:
        starts.append(options)
        if len(starts) < 3:
            raise Exception("The current node timed out during startup.")

    machine = {"Alive": True, "Resources": {"CPU": 2.0}}
    fake = SimpleNamespace(is_initialized=lambda: False, init=init, nodes=lambda: [machine], shutdown=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", fake)  # type: ignore[arg-type]
    with RayRunner().connection():
        assert len(starts) == 3
    monkeypatch.setattr(ray_runner, "STARTS", 1)
    starts.clear()
    with pytest.raises(BenchmarkError, match=r"on this machine .*timed out during startup.*--backend local"):
        RayRunner().connection().__enter__()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "optuna"], "local or ray; for a search of strengths give --sampler optuna"),
        (["--backend", "slurm"], "unknown backend 'slurm'"),
        (["--num-gpus", "1"], "--num-gpus: resources are for --backend ray"),
        (["--backend", "ray", "--num-gpus", "1"], "add --device cuda"),
        (["--backend", "ray", "--device", "cuda"], "add --num-gpus 1"),
        (["--backend", "ray", "--num-cpus", "0"], "--num-cpus 0: a job needs more than 0"),
        (["--backend", "ray", "--num-cpus", "nan"], "--num-cpus nan"),
        (["--backend", "ray", "--device", "cuda", "--num-gpus", "-1"], "--num-gpus -1: a job needs 0 or more"),
    ],
)
def test_options_that_make_no_sense(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "--out", str(tmp_path / "out"), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_ray_its_pip_command_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # type: ignore[arg-type]
    assert main(["sweep", "--backend", "ray"]) == 1
    assert 'pip install "nasopt[ray]"' in capsys.readouterr().err
