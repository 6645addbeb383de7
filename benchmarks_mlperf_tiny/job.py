"""What is one job of a sweep? A folder: settings in, one finished network out; killed and repeated at will."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from benchmarks_mlperf_tiny.checkpoint import write_text
from benchmarks_mlperf_tiny.config import RunConfig, warmup_settings
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.lock import locked
from benchmarks_mlperf_tiny.results import run_name, save_result
from benchmarks_mlperf_tiny.search import Run
from benchmarks_mlperf_tiny.summary import summarise
from benchmarks_mlperf_tiny.tasks import get_task


def prepare_job(sweep: Path, config: RunConfig, data_dir: Path | None) -> Path:
    """Create the folder of a job, or find it as an earlier sweep has left it.

    Raises:
        BenchmarkError: the folder holds a job of that name with other settings.
    """
    folder = sweep / "jobs" / run_name(config)
    path = folder / "job.json"
    settings = config.as_dict()
    content = {"config": settings, "data_dir": str(data_dir.resolve()) if data_dir else None}
    if path.exists():
        held = json.loads(path.read_text())["config"]
        differing = [
            f"{key} {held.get(key)!r} there, {value!r} here"
            for key, value in settings.items()
            if held.get(key) != value
        ]
        if differing:
            raise BenchmarkError(
                f"{folder} holds a job with other settings ({'; '.join(differing)}): choose another --out"
            )
    else:
        write_text(path, json.dumps(content, indent=1) + "\n")
    return folder


def finished(folder: Path) -> bool:
    """Whether the job has left its result."""
    return (folder / "summary.json").exists()


def warmup_file(folder: Path, job: dict[str, Any], config: RunConfig) -> Path:
    """Where the jobs of a sweep that differ in strength alone share their warm-up.

    The first one writes it and the others go on from there: to the same result as if each had warmed up by itself.
    """
    settings = json.dumps([warmup_settings(config), job["data_dir"]], sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:16]
    name = f"{config.task}-{config.data}-{config.method}-s{config.seed}-{digest}.pt"
    return folder.parent.parent / "warmups" / name


def run_job(folder: Path) -> None:
    """Execute a job, from its checkpoint if there is one; nothing happens if it is finished.

    Raises:
        BenchmarkError: it cannot be executed.
    """
    try:
        job: dict[str, Any] = json.loads((folder / "job.json").read_text())
        config = RunConfig(**job["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{folder} holds no usable job.json ({error}): start it through `sweep`") from error
    with locked(folder, wait=True):
        checkpoint = folder / "checkpoint.pt"
        if not finished(folder):
            task = get_task(config.task)
            data_dir = Path(job["data_dir"]) if job["data_dir"] else None
            data = task.dataset(config.data).load(DataOptions(data_dir))
            found = Run(config, task, data, checkpoint, warmed_up=warmup_file(folder, job, config)).run()
            summary = summarise(config, task, task.seed(data.num_classes), None, found, data.synthetic)
            save_result(folder, summary, found)
        checkpoint.unlink(missing_ok=True)
