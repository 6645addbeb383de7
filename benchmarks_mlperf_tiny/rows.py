"""What has a sweep found so far? `networks.csv`: one row per job that has finished or failed."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

from benchmarks_mlperf_tiny.checkpoint import write_text
from benchmarks_mlperf_tiny.job import finished

Row = dict[str, Any]
KEYS = ("task", "data", "method", "regularizer", "strength", "budget", "seed")
NO_NETWORK = ("config", "figure", "synthetic", "layers", "val", "test", "seconds")
WRITING = 0.1  # largest share of time spent on writing the file, while thousands of jobs end


def read_row(job: Path) -> Row | None:
    """The record of a job; None while it has neither finished nor failed."""
    config = json.loads((job / "job.json").read_text())["config"]
    row: Row = {key: config.get(key) for key in KEYS}
    if finished(job):
        summary = json.loads((job / "summary.json").read_text())
        network = {key: value for key, value in summary["found"].items() if key not in NO_NETWORK}
        figures = {key: summary["found"][key] for key in ("val", "test", "seconds")}
        row |= {"status": "done", "figure": summary["figure"], **figures, "synthetic": summary["synthetic"]}
        return row | {**network, "error": ""}
    if (job / "error.txt").exists():
        return row | {"status": "failed", "error": (job / "error.txt").read_text().strip()}
    return None


class Table:
    """The rows of a sweep's folder, each read once and again when its job ends.

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
            self.by_job.values(), key=lambda row: [row[key] or "" if key == "budget" else row[key] for key in KEYS]
        )

    def write(self, last: bool = True) -> None:
        """Replace the file; one that is not the `last` is left out where writing would take too much time."""
        started = time.monotonic()
        if not last and started < self.due:
            return
        rows = self.rows()
        columns = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())
        ended = time.monotonic()
        self.due = ended + (ended - started) / WRITING
