"""How does accuracy trade against cost? Many searches of different strengths, resumable, one CSV row per network."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks_mlperf_tiny.checkpoint import write_text
from benchmarks_mlperf_tiny.config import make_config
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.job import finished, prepare_job
from benchmarks_mlperf_tiny.lock import locked
from benchmarks_mlperf_tiny.rows import Table
from benchmarks_mlperf_tiny.runner import Runner
from benchmarks_mlperf_tiny.task import Task


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


def execute(
    table: Table, jobs: Iterable[Path], total: int, done: int, runner: Runner, quiet: bool, fresh: bool
) -> Iterator[Path]:
    """Have jobs executed, failures and rows recorded, then be told of each that has ended.

    Args:
        table: rows of the sweep, whose folder this process owns.
        jobs: folders of jobs that are not finished; one is drawn when there is room for it.
        total, done: how many networks there will be in all, and how many there are, for the progress bar.
        runner: executes them.
        quiet: show no progress.
        fresh: discard interrupted jobs instead of going on with them.
    """
    failed = 0
    if fresh:
        shutil.rmtree(table.path.parent / "warmups", ignore_errors=True)

    def cleared() -> Iterator[Path]:
        for job in jobs:
            (job / "error.txt").unlink(missing_ok=True)
            if fresh:
                (job / "checkpoint.pt").unlink(missing_ok=True)
            yield job

    try:
        with tqdm(total=total, initial=done, desc="sweep", unit="network", disable=quiet) as bar:
            for outcome in runner.run(cleared()):
                if outcome.code != 0 or not finished(outcome.folder):
                    failed += 1
                    write_text(outcome.folder / "error.txt", (outcome.message or "it left no result") + "\n")
                    bar.set_postfix_str(f"{failed} failed")
                table.update(outcome.folder)
                table.write(last=False)
                bar.update()
                yield outcome.folder
    finally:
        table.write()


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
    fresh: bool = False,
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
        fresh: discard interrupted jobs instead of going on with them.
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
        table = Table(folder)
        for _ in execute(table, waiting, len(jobs), len(jobs) - len(waiting), runner, quiet, fresh):
            pass
        return table.rows()
