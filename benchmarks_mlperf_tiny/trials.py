"""Persistent Optuna study that proposes strengths; each of its trials is one job of a sweep for every seed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks_mlperf_tiny.config import RunConfig
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.files import differences, read_json
from benchmarks_mlperf_tiny.jobs import finished, prepare_job
from benchmarks_mlperf_tiny.limits import Goal
from nasopt.extras import import_extra

STORAGE = "trials.db"
PROBES = (0.0, 1.0, 0.5, 0.25, 0.75)  # places in the range of strengths (its logarithm) that are tried first


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
            differing = differences(json.loads(held), json.loads(settings))
            raise BenchmarkError(f"{path} holds such a search with other settings ({differing}): choose another --out")
        return study

    def jobs(self, trials: int) -> Iterator[Path]:
        """Jobs to execute until the study has that many trials, each asked for when it is drawn.

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
        """How many trials the study lacks to have that many complete ones."""
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
            found = [read_json(job / "summary.json")["found"] for job in jobs]
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
