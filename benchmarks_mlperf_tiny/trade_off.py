"""Which strengths give the wanted trade-off? Optuna proposes them from what earlier ones have given."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks_mlperf_tiny.config import make_config
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.goal import Goal
from benchmarks_mlperf_tiny.job import finished, prepare_job
from benchmarks_mlperf_tiny.lock import locked
from benchmarks_mlperf_tiny.rows import Row, Table
from benchmarks_mlperf_tiny.runner import Runner
from benchmarks_mlperf_tiny.sweep import execute
from benchmarks_mlperf_tiny.task import Task
from benchmarks_mlperf_tiny.trials import Trials
from nasopt.extras import import_extra


def run_trials(
    folder: Path,
    task: Task,
    data: str | None,
    methods: Sequence[str],
    bounds: tuple[float, float],
    seeds: Sequence[int],
    trials: int,
    goal: Goal,
    runner: Runner,
    data_dir: Path | None = None,
    quiet: bool = False,
    fresh: bool = False,
    **changes: Any,
) -> tuple[list[Row], list[dict[str, Any]]]:
    """Search with strengths that Optuna proposes, and train the plain seed for comparison.

    Trials that are finished are not repeated, and the same call with more `trials` goes on from them.

    Args:
        folder: of the sweep; plain sweeps may share it.
        task, data, methods: what to search; of several methods Optuna chooses one for each trial.
        bounds: of the strengths.
        seeds: of randomness; a trial searches with each and counts with the mean.
        trials: how many, with those of earlier calls.
        goal: the wanted trade-off.
        runner, data_dir, quiet, fresh, changes: as for `run_sweep`.

    Returns:
        All rows of the folder, and the best trade-offs within the limits: method, strength, val, cost.

    Raises:
        BenchmarkError: settings that make no sense; nothing has been started then.
        FolderLockedError: another sweep works in the folder.
    """
    import_extra("optuna", "optuna", "--sampler optuna")
    if trials < 1:
        raise BenchmarkError(f"--trials {trials}: at least one network must be searched")
    if "seed" in methods:
        raise BenchmarkError("method 'seed' has no strength to search; it is trained for comparison in any case")
    plain = [make_config(task, data, "seed", **{**changes, "seed": seed}) for seed in seeds]
    configs = [make_config(task, data, method, **{**changes, "strength": bounds[0]}) for method in methods]
    with locked(folder):
        study = Trials(folder, configs, seeds, bounds, goal, data_dir)
        baseline = [prepare_job(folder, config, data_dir) for config in plain]
        waiting = [job for job in baseline if not finished(job)]
        table = Table(folder)
        total, missing = len(baseline) + trials * len(seeds), len(waiting) + study.missing(trials) * len(seeds)
        jobs = itertools.chain(waiting, study.jobs(trials))
        for job in execute(table, jobs, total, max(total - missing, 0), runner, quiet, fresh):
            study.tell(failed=None if finished(job) else job)
        return table.rows(), study.front()
