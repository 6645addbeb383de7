"""Sweeps: many searches of different strengths or budgets, in parallel, resumable, one CSV row per network."""

from __future__ import annotations

import itertools
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks_mlperf_tiny.config import RunConfig, make_config, start_of
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.files import remove_checkpoint, write_text
from benchmarks_mlperf_tiny.gaps import alike, fillings, say
from benchmarks_mlperf_tiny.jobs import Row, Table, finished, prepare_job
from benchmarks_mlperf_tiny.limits import Goal, make_budget
from benchmarks_mlperf_tiny.lock import locked
from benchmarks_mlperf_tiny.measure import costs
from benchmarks_mlperf_tiny.methods import get_method, wrap
from benchmarks_mlperf_tiny.runner import Runner
from benchmarks_mlperf_tiny.tasks import Task
from benchmarks_mlperf_tiny.trials import Trials
from nasopt.extras import import_extra


@dataclass(frozen=True)
class Sweep:
    """Searches with some methods, several seeds of randomness each; the plain seed network is trained for comparison.

    What is finished is not repeated, what was interrupted goes on, what failed is tried again.

    Attributes:
        folder: of jobs and table; several sweeps may share it one after the other.
        task, data, methods: what to search.
        seeds: of randomness.
        runner: executes the jobs.
        settings: that differ from the recipe.
        data_dir: a local copy of the data.
        quiet: show no progress.
        fresh: discard interrupted jobs instead of going on with them.
    """

    folder: Path
    task: Task
    data: str | None
    methods: Sequence[str]
    seeds: Sequence[int]
    runner: Runner
    settings: dict[str, Any] = field(default_factory=dict)
    data_dir: Path | None = None
    quiet: bool = False
    fresh: bool = False

    def config(self, method: str, **more: Any) -> RunConfig:
        """The settings of one search."""
        return make_config(self.task, self.data, method, **{**self.settings, **more})

    def grid(self, strengths: Sequence[float], budgets: Sequence[str] = (), fill: bool = False) -> list[Row]:
        """One search for each method, strength or budget, and seed; returns all rows of the folder, earlier ones included.

        Args:
            strengths, budgets: what to search with.
            fill: say which strengths found the same network, and search with budgets in the widest gaps in their place.

        Raises:
            BenchmarkError: settings that make no sense; nothing has been started then.
            ConfigError: limits that no network of a method keeps; nothing has been started either.
            FolderLockedError: another sweep works in the folder.
        """
        goals = [{"strength": strength} for strength in strengths] + [{"budget": budget} for budget in budgets]
        configs = [self.config("seed", seed=seed) for seed in self.seeds]
        for method, goal, seed in itertools.product(self.methods, goals, self.seeds):
            configs.append(self.config(method, **goal, seed=seed))
        for config in configs:
            if config.budget is not None and config.seed == self.seeds[0]:
                self.check_budget(config)
        with locked(self.folder):
            jobs = list(dict.fromkeys(prepare_job(self.folder, config, self.data_dir) for config in configs))
            waiting = [job for job in jobs if not finished(job)]
            table = Table(self.folder)
            for _ in self.execute(table, waiting, len(jobs), len(jobs) - len(waiting)):
                pass
            if fill and strengths:
                more = [prepare_job(self.folder, config, self.data_dir) for config in self.fillings(table.rows())]
                for _ in self.execute(table, more, len(jobs) + len(more), len(jobs)):
                    pass
            return table.rows()

    def fillings(self, rows: Sequence[Row]) -> Iterator[RunConfig]:
        """Searches in the gaps between networks, in place of strengths that found the same one."""
        for group in alike(rows):
            print(say(group))
        for method, seed in itertools.product([m for m in self.methods if get_method(m).stages], self.seeds):
            plain = self.config(method, seed=seed)
            if get_method(method).is_binary or not alike(row for row in rows if row["method"] == method):
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                stage = get_method(method).stages[0]
                space = wrap(stage, start_of(plain, self.task, 2), self.task.input_shape, plain.regularizer, 1)
            cost = space.search_space()["cost"][plain.regularizer]
            for budget in fillings(rows, method, seed, plain.regularizer, (cost["smallest"], cost["seed"])):
                print(f"{method}, seed {seed}: nothing lies near {budget}, so that is searched for")
                given = {key: value for key, value in self.settings.items() if key not in ("regularizer", "relative")}
                yield make_config(self.task, self.data, method, **given, budget=budget, seed=seed)

    def check_budget(self, config: RunConfig) -> None:
        """Wrap what the first stage of a method searches.

        Raises:
            ConfigError: no network of it is inside the limits, even of two classes.
        """
        shape, (stage, *_) = self.task.input_shape, get_method(config.method).stages
        budget = make_budget(config.budget or "", costs(self.task.seed(2), shape))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrap(stage, start_of(config, self.task, 2), shape, budget, config.search)

    def trade_off(self, bounds: tuple[float, float], trials: int, goal: Goal) -> tuple[list[Row], list[dict[str, Any]]]:
        """Searches with strengths that Optuna proposes from what earlier ones have given.

        Trials that are finished are not repeated, and the same call with more `trials` goes on from them.

        Args:
            bounds: of the strengths; of several methods Optuna chooses one for each trial.
            trials: how many, with those of earlier calls; each searches with all seeds and counts with the mean.
            goal: the wanted trade-off.

        Returns:
            All rows of the folder, and the best trade-offs within the limits: method, strength, val, cost.

        Raises:
            BenchmarkError, FolderLockedError: as for `grid`.
        """
        import_extra("optuna", "optuna", "--sampler optuna")
        if trials < 1:
            raise BenchmarkError(f"--trials {trials}: at least one network must be searched")
        if "seed" in self.methods:
            raise BenchmarkError("method 'seed' has no strength to search; it is trained for comparison in any case")
        plain = [self.config("seed", seed=seed) for seed in self.seeds]
        configs = [self.config(method, strength=bounds[0]) for method in self.methods]
        with locked(self.folder):
            study = Trials(self.folder, configs, self.seeds, bounds, goal, self.data_dir)
            baseline = [prepare_job(self.folder, config, self.data_dir) for config in plain]
            waiting = [job for job in baseline if not finished(job)]
            table = Table(self.folder)
            total = len(baseline) + trials * len(self.seeds)
            missing = len(waiting) + study.missing(trials) * len(self.seeds)
            jobs = itertools.chain(waiting, study.jobs(trials))
            for job in self.execute(table, jobs, total, max(total - missing, 0)):
                study.tell(failed=None if finished(job) else job)
            return table.rows(), study.front()

    def execute(self, table: Table, jobs: Iterable[Path], total: int, done: int) -> Iterator[Path]:
        """Have jobs executed, failures and rows recorded, then be told of each that has ended.

        Args:
            table: rows of the folder, which this process owns.
            jobs: folders of jobs that are not finished; one is drawn when there is room for it.
            total, done: how many networks there will be in all, and how many there are, for the progress bar.
        """
        failed = 0
        if self.fresh:
            shutil.rmtree(self.folder / "warmups", ignore_errors=True)

        def cleared() -> Iterator[Path]:
            for job in jobs:
                (job / "error.txt").unlink(missing_ok=True)
                if self.fresh:
                    remove_checkpoint(job / "checkpoint.pt")
                yield job

        try:
            with tqdm(total=total, initial=done, desc="sweep", unit="network", disable=self.quiet) as bar:
                for outcome in self.runner.run(cleared()):
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
