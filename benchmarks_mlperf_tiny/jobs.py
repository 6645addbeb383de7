"""Jobs of a sweep, one folder each: settings in, one finished network out, killed and repeated at will; and their rows."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

from benchmarks_mlperf_tiny.config import RunConfig, warmup_settings
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.errors import BenchmarkError, DamagedFileError
from benchmarks_mlperf_tiny.files import differences, read_json, remove_checkpoint, write_json, write_text
from benchmarks_mlperf_tiny.lock import locked
from benchmarks_mlperf_tiny.search import Run
from benchmarks_mlperf_tiny.summary import run_name, save_result, summarise
from benchmarks_mlperf_tiny.tasks import get_task

Row = dict[str, Any]
KEYS = ("task", "data", "method", "regularizer", "strength", "budget", "seed")
NO_NETWORK = ("config", "figure", "synthetic", "layers", "val", "test", "seconds")
WRITING = 0.1  # largest share of time spent on writing the table, while thousands of jobs end


def prepare_job(sweep: Path, config: RunConfig, data_dir: Path | None) -> Path:
    """Create the folder of a job, or find it as an earlier sweep has left it.

    Raises:
        BenchmarkError: the folder holds a job of that name with other settings.
    """
    folder = sweep / "jobs" / run_name(config)
    path = folder / "job.json"
    settings = config.as_dict()
    held = None
    if path.exists():
        with contextlib.suppress(DamagedFileError):  # a damaged one is written anew
            held = read_json(path)
    if held is None:
        write_json(path, {"config": settings, "data_dir": str(data_dir.resolve()) if data_dir else None})
    elif differing := differences(held["config"], settings):
        raise BenchmarkError(f"{folder} holds a job with other settings ({differing}): choose another --out")
    return folder


def finished(folder: Path) -> bool:
    """Whether the job has left its result, undamaged."""
    try:
        return (folder / "summary.json").exists() and "found" in read_json(folder / "summary.json")
    except DamagedFileError:
        return False


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
        job: dict[str, Any] = read_json(folder / "job.json")
        config = RunConfig(**job["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{folder} holds no usable job.json ({error}): start it through `sweep`") from error
    with locked(folder, wait=True):
        checkpoint = folder / "checkpoint.pt"
        if not finished(folder):
            task = get_task(config.task)
            data = task.dataset(config.data).load(DataOptions(Path(job["data_dir"]) if job["data_dir"] else None))
            found = Run(config, task, data, checkpoint, warmed_up=warmup_file(folder, job, config)).run()
            summary = summarise(config, task, task.seed(data.num_classes), None, found, data.synthetic)
            save_result(folder, summary, found)
        remove_checkpoint(checkpoint)


def read_row(job: Path) -> Row | None:
    """The record of a job; None while it has neither finished nor failed. A damaged file costs this row, no other."""
    row: Row = {"job": job.name, **dict.fromkeys(KEYS)}
    try:
        row |= {key: read_json(job / "job.json")["config"].get(key) for key in KEYS}
        summary = read_json(job / "summary.json") if (job / "summary.json").exists() else None
    except DamagedFileError as error:
        return row | {"status": "failed", "error": str(error)}
    if summary is not None:
        found = summary["found"]
        row |= {
            "status": "done",
            "figure": summary["figure"],
            **{key: found[key] for key in ("val", "test", "seconds")},
        }
        row |= {"synthetic": summary["synthetic"]}
        return row | {key: value for key, value in found.items() if key not in NO_NETWORK} | {"error": ""}
    if (job / "error.txt").exists():
        return row | {"status": "failed", "error": (job / "error.txt").read_text().strip()}
    return None


class Table:
    """`networks.csv`: one row per job of a sweep that has finished or failed; each is read once, and again when it ends.

    Args:
        folder: of the sweep; no other process may change its jobs meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "networks.csv"
        self.by_job: dict[Path, Row] = {}
        self.due = -math.inf
        for path in folder.glob("jobs/*/job.json"):
            self.update(path.parent)

    def update(self, job: Path) -> None:
        """Read a job's row again."""
        row = read_row(job)
        if row is None:
            self.by_job.pop(job, None)
        else:
            self.by_job[job] = row

    def rows(self) -> list[Row]:
        """All rows, sorted by their settings."""
        return sorted(
            self.by_job.values(), key=lambda row: [(row[key] is not None, row[key]) for key in (*KEYS, "job")]
        )

    def write(self, last: bool = True) -> None:
        """Replace the file; one that is not the `last` is left out where writing would take too much time."""
        started = time.monotonic()
        if not last and started < self.due:
            return
        rows = self.rows()
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(itertools.chain.from_iterable(rows))), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())
        ended = time.monotonic()
        self.due = ended + (ended - started) / WRITING
