"""Settings of one run as one plain, checked value; equal values give equal results."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.limits import parse_budget
from benchmarks_mlperf_tiny.methods import default_cost, get_method
from benchmarks_mlperf_tiny.tasks import Recipe, Task
from nasopt import Precision

REGULARIZERS = ("macs", "size", "ops", "size_bits", "flash")


@dataclass(frozen=True)
class RunConfig:
    """Settings of one run.

    Attributes:
        task, data, method: names.
        strength: weight of the cost in the search loss (0 for method `seed`).
        relative: whether that cost counts as a fraction of the seed's (in 8 bits where there is a precision), or in its own unit.
        regularizer: which cost: `"macs"` or `"size"`; `"ops"` and `"size_bits"` count binary products and weights as such,
            `"flash"` counts bytes at their width, and is the default where widths are searched.
        seed: of weights, order of examples, augmentation and sampling.
        warmup, search, finetune: epochs of each phase.
        batch_size, lr, arch_lr, norm_momentum: as in `Recipe`.
        patience: end a phase after that many epochs without progress; None: never.
        device: torch device.
        amp: compute in bfloat16 where autocast does so.
        compile: run the models through `torch.compile`.
        candidates: names of candidates, separated by commas, in place of those of the task's supernet; None: the task's.
        precision: bits of weights and activations in the last search, as `nasopt.Precision.parse` reads them; None: floats.
        budget: limits in place of strength and regularizer, as `budgets.parse_budget` reads them, or None.
    """

    task: str
    data: str
    method: str
    strength: float
    regularizer: str
    seed: int
    warmup: int
    search: int
    finetune: int
    batch_size: int
    lr: float
    arch_lr: float
    norm_momentum: float = 0.01
    relative: bool = True
    patience: int | None = None
    device: str = "cpu"
    amp: bool = False
    compile: bool = False
    budget: str | None = None
    candidates: str | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without data.

        Raises:
            BenchmarkError: a value that makes no sense.
        """
        chosen = get_method(self.method)
        if self.candidates is not None and (not chosen.stages or chosen.stages[0].start != "supernet"):
            raise BenchmarkError(
                f"candidates are for methods with a supernet, and {self.method!r} has none: leave them out"
            )
        if self.precision is not None:
            Precision.parse(self.precision)
            if not chosen.stages or chosen.is_binary:
                raise BenchmarkError(
                    f"precision is for searches without binary layers, not {self.method!r}: leave it out"
                )
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise BenchmarkError(f"strength {self.strength!r}: it weighs a cost and must be a finite number >= 0")
        if self.regularizer not in REGULARIZERS:
            raise BenchmarkError(f"unknown regularizer {self.regularizer!r}: known are {', '.join(REGULARIZERS)}")
        if self.budget is not None:
            parse_budget(self.budget)
        for name, least in (("warmup", 0), ("search", 1), ("finetune", 1), ("batch_size", 2), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise BenchmarkError(f"{name} = {value}: at least {least} is needed")
        if not 0 <= self.seed < 2**63:
            raise BenchmarkError(f"seed {self.seed}: give a whole number from 0 to 2**63 - 1")
        for name in ("lr", "arch_lr"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise BenchmarkError(f"{name} = {getattr(self, name)!r}: a learning rate must be finite and positive")
        try:
            usable = torch.empty(0, device=self.device).device.type != "meta"
        except (RuntimeError, AssertionError) as error:
            raise BenchmarkError(f"device {self.device!r} cannot be used here ({error}): try --device cpu") from error
        if not usable:
            raise BenchmarkError(f"device {self.device!r} holds no numbers: try --device cpu")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint or a JSON file."""
        plain = dataclasses.asdict(self)
        for name in ("candidates", "precision"):
            if plain[name] is None:
                del plain[name]  # files of runs before there were any are still those of the same run
        return plain


def warmup_settings(config: RunConfig) -> dict[str, Any]:
    """Settings that decide how a warm-up ends: all but the strength, which has no part in it."""
    return {key: value for key, value in config.as_dict().items() if key != "strength"}


def make_config(task: Task, data: str | None, method: str, **changes: Any) -> RunConfig:
    """The recipe of a data set with `changes` that are not None.

    Raises:
        BenchmarkError: unknown data or method, or a value that makes no sense.
    """
    name = task.default_data if data is None else data
    recipe: Recipe = task.dataset(name).recipe
    given = {key: value for key, value in changes.items() if value is not None}
    cost = default_cost(method, given.get("precision"))
    values: dict[str, Any] = {"regularizer": cost, "seed": 0, **dataclasses.asdict(recipe)}
    if "budget" in given and not given.keys().isdisjoint({"strength", "regularizer", "relative"}):
        raise BenchmarkError("a budget takes the place of strength, --regularizer and --absolute: leave them out")
    told = ("strength", "regularizer", "relative", "precision")
    if method != "pit" or not given.keys().isdisjoint(told):
        values["budget"] = None
    values.update(given)
    if method == "seed" or values["budget"] is not None:
        values["strength"] = 0.0
    if method == "seed":
        values["budget"] = values["candidates"] = values["precision"] = None
    return RunConfig(task=task.name, data=name, method=method, **values)


def start_of(config: RunConfig, task: Task, classes: int) -> nn.Module:
    """The network that the first stage of a method starts from."""
    stages = get_method(config.method).stages
    if stages and stages[0].start == "supernet":
        return task.supernet(classes, config.candidates.split(",") if config.candidates is not None else None)
    return task.seed(classes)
