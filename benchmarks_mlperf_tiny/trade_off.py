"""Which strengths give the wanted trade-off? Optuna proposes them from what earlier ones have given."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks_mlperf_tiny.config import RunConfig, make_config
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.job import finished, prepare_job
from benchmarks_mlperf_tiny.lock import locked
from benchmarks_mlperf_tiny.measure import COSTS
from benchmarks_mlperf_tiny.rows import Row, Table
from benchmarks_mlperf_tiny.runner import Runner
from benchmarks_mlperf_tiny.sweep import execute
from benchmarks_mlperf_tiny.task import Task
from nasopt.errors import nearest
from nasopt.extras import import_extra

STORAGE = "trials.db"
PROBES = (0.0, 1.0, 0.5, 0.25, 0.75)  # places in the range of strengths (its logarithm) that are tried first


@dataclass(frozen=True)
class Goal:
    """A wanted trade-off: the figure of merit up, a cost down, within limits where they are given.

    Attributes:
        cost: column of `networks.csv`.
        max_cost: largest cost that is wanted, in the unit of that column; None: any.
        min_figure: smallest figure on the val split that is wanted; None: any.
    """

    cost: str = "macs"
    max_cost: float | None = None
    min_figure: float | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            BenchmarkError: unknown cost, or a limit that makes no sense.
        """
        if self.cost not in COSTS:
            raise BenchmarkError(
                f"unknown cost {self.cost!r}: known are {', '.join(COSTS)}.{nearest(self.cost, COSTS)}"
            )
        if self.max_cost is not None and not (math.isfinite(self.max_cost) and self.max_cost > 0):
            raise BenchmarkError(
                f"largest cost {self.max_cost:g}: it must be finite and positive, in units of {self.cost}"
            )
        if self.min_figure is not None and not 0 < self.min_figure <= 1:
            raise BenchmarkError(
                f"smallest figure {self.min_figure:g}: figures lie above 0 and up to 1, give 0.95 for 95 %"
            )

    def violations(self, figure: float, cost: float) -> dict[str, float]:
        """By how much the limits are missed: positive numbers, relative to the limit."""
        limits = {}
        if self.max_cost is not None:
            limits["cost"] = cost / self.max_cost - 1
        if self.min_figure is not None:
            limits["figure"] = 1 - figure / self.min_figure
        return limits


def parse_range(text: str) -> tuple[float, float]:
    """`"low:high"`.

    Raises:
        BenchmarkError: not that, or numbers that make no sense as strengths.
    """
    cure = "give low:high, like 0.1:30, and the number of networks as --trials"
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise BenchmarkError(f"range of strengths {text!r} cannot be read ({error}): {cure}") from error
    if not (0 < low < high < math.inf):
        raise BenchmarkError(f"range of strengths {text!r}: it must be finite, positive and rising: {cure}")
    return low, high


def key(trial: Any) -> str:
    """What a trial asks for, or is to ask for, comparable."""
    return json.dumps(trial.params or trial.system_attrs.get("fixed_params"), sort_keys=True)


class Trials:
    """A persistent Optuna study in a sweep's folder, whose trials are jobs: one for each seed of randomness.

    Args:
        folder: of the sweep, owned by this process.
        configs: one for each method, of any strength and seed: what all trials have in common.
        seeds: of randomness; a trial's figure and cost are means over them.
        bounds: of the strength.
        goal: the wanted trade-off.
        data_dir: a local copy of the data.

    Raises:
        BenchmarkError: the storage cannot be read, or holds such a study of other settings.
    """

    def __init__(
        self,
        folder: Path,
        configs: Sequence[RunConfig],
        seeds: Sequence[int],
        bounds: tuple[float, float],
        goal: Goal,
        data_dir: Path | None,
    ) -> None:
        self.optuna = import_extra("optuna", "optuna", "--sampler optuna")
        self.folder, self.seeds, self.goal, self.data_dir = folder, seeds, goal, data_dir
        self.configs = {config.method: config for config in configs}
        distributions = self.optuna.distributions
        self.space = {
            "method": distributions.CategoricalDistribution(list(self.configs)),
            "strength": distributions.FloatDistribution(*bounds, log=True),
        }
        self.study = self.open_study()
        self.open: dict[Any, list[Path]] = {}
        self.failed: set[Path] = set()

    def open_study(self) -> Any:
        """The study of these methods, seeds and goal, new or as it was left."""
        optuna = self.optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        first = next(iter(self.configs.values()))
        unit = "" if first.relative else "-absolute"
        limits = [
            f"{name}{value:g}" for name, value in (("max", self.goal.max_cost), ("min", self.goal.min_figure)) if value
        ]
        parts = [first.task, first.data, "+".join(self.configs), first.regularizer + unit, self.goal.cost, *limits]
        name = "-".join([*parts, "s" + "+".join(map(str, self.seeds))])
        free = dict.fromkeys(("method", "strength", "seed"))
        settings = json.dumps(first.as_dict() | free, sort_keys=True)
        path = self.folder / STORAGE
        try:
            storage = optuna.storages.RDBStorage(f"sqlite:///{path.resolve()}")
            study = optuna.create_study(
                storage=storage, study_name=name, directions=["maximize", "minimize"], load_if_exists=True
            )
            held = study.user_attrs.get("settings")
            if held is None:
                low, high = self.space["strength"].low, self.space["strength"].high
                for place in PROBES:
                    strength = min(max(low * (high / low) ** place, low), high)
                    study.enqueue_trial({"strength": strength}, skip_if_exists=True)
                study.set_user_attr("settings", settings)
        except Exception as error:  # of SQLAlchemy, whose types belong to no interface of Optuna
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            raise BenchmarkError(f"{path} cannot be used ({reason}): remove it, finished networks are kept") from error
        if held not in (None, settings):
            there = json.loads(held)
            differing = [
                f"{name} {there.get(name)!r} there, {value!r} here"
                for name, value in json.loads(settings).items()
                if there.get(name) != value
            ]
            raise BenchmarkError(
                f"{path} holds such a search with other settings ({'; '.join(differing)}): choose another --out"
            )
        return study

    def jobs(self, trials: int) -> Iterator[Path]:
        """Jobs to execute until the study has so many trials, each asked for when it is drawn.

        What an earlier process has left comes first: trials that were interrupted go on, trials that failed are tried
        again.
        """
        State = self.optuna.trial.TrialState
        done = {key(trial) for trial in self.study.get_trials(states=(State.COMPLETE, State.WAITING))}
        for trial in self.study.get_trials(states=(State.RUNNING, State.FAIL)):
            if trial.state == State.RUNNING:
                self.study.tell(trial.number, state=State.FAIL)
            if key(trial) not in done:
                self.study.enqueue_trial(trial.params)
                done.add(key(trial))
        started: set[Path] = set()
        for _ in range(self.missing(trials)):
            trial = self.ask()
            self.open[trial] = [self.job(trial.params["method"], trial.params["strength"], seed) for seed in self.seeds]
            for job in self.open[trial]:
                if job not in started and not finished(job):
                    started.add(job)
                    yield job
            self.tell()

    def missing(self, trials: int) -> int:
        """How many trials the study lacks to have so many that are complete."""
        return max(trials - len(self.study.get_trials(states=(self.optuna.trial.TrialState.COMPLETE,))), 0)

    def ask(self) -> Any:
        """The next trial; the same one after the same trials, whether or not the process was killed between them."""
        known = {key(trial) for trial in self.study.get_trials(deepcopy=False)}
        self.study.sampler = self.optuna.samplers.TPESampler(seed=len(known), n_startup_trials=len(PROBES))
        return self.study.ask(self.space)

    def job(self, method: str, strength: float, seed: int) -> Path:
        """Folder of a trial's job; strengths have four digits."""
        settings = self.configs[method].as_dict() | {"strength": float(f"{strength:.4g}"), "seed": seed}
        return prepare_job(self.folder, RunConfig(**settings), self.data_dir)

    def tell(self, failed: Path | None = None) -> None:
        """Conclude every trial whose jobs have all ended.

        Args:
            failed: a job that has just ended without a result.
        """
        if failed is not None:
            self.failed.add(failed)
        for trial, jobs in list(self.open.items()):
            if not all(finished(job) or job in self.failed for job in jobs):
                continue
            del self.open[trial]
            if self.failed.intersection(jobs):
                self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
                continue
            found = [json.loads((job / "summary.json").read_text())["found"] for job in jobs]
            if any(network[self.goal.cost] is None for network in found):
                raise BenchmarkError(
                    f"{jobs[0].name}: the network has layers without {self.goal.cost}: give another --cost"
                )
            figure = statistics.fmean(network["val"] for network in found)
            cost = statistics.fmean(network[self.goal.cost] for network in found)
            for name, value in self.goal.violations(figure, cost).items():
                trial.set_constraint(name, value)
            self.study.tell(trial, [figure, cost])

    def front(self) -> list[dict[str, Any]]:
        """Trials within the limits that no other beats in both figure and cost, by rising cost."""
        best = sorted(self.study.best_trials, key=lambda trial: trial.values[1])
        names = ("val", self.goal.cost)
        return [{**trial.params, **dict(zip(names, trial.values, strict=True))} for trial in best]


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
