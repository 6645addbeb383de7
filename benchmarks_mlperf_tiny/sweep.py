"""How does accuracy trade against cost? Many searches of different strengths, resumable, one CSV row per network."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks_mlperf_tiny.checkpoint import write_text
from benchmarks_mlperf_tiny.config import make_config
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.job import finished, prepare_job
from benchmarks_mlperf_tiny.lock import locked
from benchmarks_mlperf_tiny.runner import Runner
from benchmarks_mlperf_tiny.task import Task

KEYS = ("task", "data", "method", "regularizer", "strength", "budget", "seed")
NO_NETWORK = ("config", "figure", "synthetic", "layers", "val", "test", "seconds")


def parse_strengths(text: str) -> list[float]:
    """`"low:high:count"` (a geometric series) or `"a,b,c"`.

    Raises:
        BenchmarkError: not that, or numbers that make no sense as strengths.
    """
    cure = "give low:high:count, like 0.1:10:8, or a list, like 0.1,1,10"
    try:
        if ":" in text:
            low_text, high_text, count_text = text.split(":")
            low, high, count = float(low_text), float(high_text), int(count_text)
        else:
            values = [float(part) for part in text.split(",")]
            low, high, count = min(values), max(values), len(values)
    except ValueError as error:
        raise BenchmarkError(f"strengths {text!r} cannot be read ({error}): {cure}") from error
    if not (math.isfinite(low) and math.isfinite(high)) or low < 0 or (":" in text and low == 0):
        raise BenchmarkError(f"strengths {text!r}: they must be finite and positive: {cure}")
    if ":" not in text:
        if len(set(values)) < count:
            raise BenchmarkError(f"strengths {text!r}: a value stands there twice: {cure}")
        return values
    if count < 1 or high < low or (count == 1) != (high == low):
        raise BenchmarkError(f"strengths {text!r}: no series of {count} from {low:g} to {high:g}: {cure}")
    ratio = (high / low) ** (1 / max(count - 1, 1))
    return [float(f"{low * ratio**index:.4g}") for index in range(count)]


def parse_seeds(text: str) -> list[int]:
    """`"0,1,2"`.

    Raises:
        BenchmarkError: not a list of different whole numbers.
    """
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BenchmarkError(f"seeds {text!r} cannot be read: give a list, like 0,1,2") from error
    if len(set(values)) < len(values):
        raise BenchmarkError(f"seeds {text!r}: one stands there twice")
    return values


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """One record per job that has finished or failed, sorted by its settings."""
    rows = []
    for path in sorted(folder.glob("jobs/*/job.json")):
        config = json.loads(path.read_text())["config"]
        row: dict[str, Any] = {key: config.get(key) for key in KEYS}
        if finished(path.parent):
            summary = json.loads((path.parent / "summary.json").read_text())
            network = {key: value for key, value in summary["found"].items() if key not in NO_NETWORK}
            figures = {key: summary["found"][key] for key in ("val", "test", "seconds")}
            row |= {"status": "done", "figure": summary["figure"], **figures, "synthetic": summary["synthetic"]}
            row |= {**network, "error": ""}
        elif (path.parent / "error.txt").exists():
            row |= {"status": "failed", "error": (path.parent / "error.txt").read_text().strip()}
        else:
            continue
        rows.append(row)
    return sorted(rows, key=lambda row: [row[key] or "" if key == "budget" else row[key] for key in KEYS])


def write_csv(folder: Path) -> list[dict[str, Any]]:
    """Replace `networks.csv` by the current rows, and return them."""
    rows = read_rows(folder)
    columns = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "networks.csv", text.getvalue())
    return rows


def run_sweep(
    folder: Path,
    task: Task,
    data: str | None,
    methods: Sequence[str],
    strengths: Sequence[float],
    seeds: Sequence[int],
    runner: Runner,
    data_dir: Path | None = None,
    quiet: bool = False,
    budgets: Sequence[str] = (),
    **changes: Any,
) -> list[dict[str, Any]]:
    """Search with every method, strength or budget, and seed, and train the plain seed for comparison.

    What is finished is not repeated, what was interrupted goes on, what failed is tried again.

    Args:
        folder: of the sweep; several sweeps may share it one after the other.
        task, data, methods: what to search.
        strengths: of the cost.
        seeds: of randomness; one search for each.
        runner: executes the jobs.
        data_dir: a local copy of the data.
        quiet: show no progress.
        budgets: limits, one search for each beside those with strengths.
        changes: further settings that differ from the recipe.

    Returns:
        All rows of the folder, also those of earlier sweeps.

    Raises:
        BenchmarkError: settings that make no sense; nothing has been started then.
        FolderLockedError: another sweep works in the folder.
    """
    configs = [make_config(task, data, "seed", **{**changes, "seed": seed}) for seed in seeds]
    settings = [{"strength": strength} for strength in strengths] + [{"budget": budget} for budget in budgets]
    for method, setting, seed in itertools.product(methods, settings, seeds):
        configs.append(make_config(task, data, method, **{**changes, **setting, "seed": seed}))
    with locked(folder):
        jobs = list(dict.fromkeys(prepare_job(folder, config, data_dir) for config in configs))
        waiting = [job for job in jobs if not finished(job)]
        for job in waiting:
            (job / "error.txt").unlink(missing_ok=True)
        bar = tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc="sweep", unit="network", disable=quiet)
        failed = 0
        with bar:
            for outcome in runner.run(waiting):
                if outcome.code != 0 or not finished(outcome.folder):
                    failed += 1
                    write_text(outcome.folder / "error.txt", (outcome.message or "it left no result") + "\n")
                write_csv(folder)
                bar.set_postfix_str(f"{failed} failed" if failed else "")
                bar.update()
        return write_csv(folder)
