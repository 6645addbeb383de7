"""Contestants of the arena: each makes a network within a limit on its size, in the same number of epochs."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import math
import shlex
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import nasopt
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.data.splits import Split
from benchmarks_mlperf_tiny.networks import autoencoder, ds_cnn, mobilenet_v1, resnet8, set_norm_momentum
from benchmarks_mlperf_tiny.phases import rate_of
from benchmarks_mlperf_tiny.tasks import get_task
from benchmarks_mlperf_tiny.training import Engine, epoch_seed
from nasopt.cost import network_cost
from nasopt.errors import ConfigError
from nasopt.search import importance
from nasopt.search.importance import Ranking

KEYS = ("task", "data", "epochs", "amp", "method", "share", "seed")
JUDGED = 256  # examples of the val split by which a black box is judged
STEPS = 100  # pieces in which Torch-Pruning removes channels: so many that a limit is met closely
NARROW: dict[str, Callable[[int, float], nn.Module]] = {
    "ic": lambda classes, scale: resnet8(classes, width=max(1, round(16 * scale))),
    "kws": lambda classes, scale: ds_cnn(classes, width=max(1, round(64 * scale))),
    "vww": lambda classes, scale: mobilenet_v1(classes, scale=scale),
    "ad": lambda features, scale: autoencoder(features, max(1, round(128 * scale)), max(1, round(8 * scale))),
}


@dataclass(frozen=True)
class Bout:
    """One network to find: who finds it, and under which conditions."""

    task: str
    data: str
    epochs: str
    method: str
    share: float
    seed: int
    command: str = ""
    amp: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """As in the CSV."""
        return tuple(str(getattr(self, key)) for key in KEYS)


class Trainer:
    """What all contestants have in common."""

    def __init__(self, bout: Bout) -> None:
        self.bout, self.task = bout, get_task(bout.task)
        self.data = self.task.dataset(bout.data).load(DataOptions())
        self.recipe = self.task.dataset(bout.data).recipe
        self.warmup, self.search, self.finetune = map(int, bout.epochs.split("+"))
        self.engine = Engine(self.task, self.data, "cpu", bout.amp, self.recipe.batch_size)
        self.shape = self.task.input_shape
        torch.manual_seed(bout.seed)
        self.seed = self.task.seed(self.data.num_classes)
        self.limit = bout.share * network_cost(self.seed, "size", self.shape)

    def train(
        self,
        model: nn.Module,
        groups: Any,
        epochs: int,
        phase: int,
        kind: str = "train",
        penalty: Callable[[], Tensor] | None = None,
        before: Callable[[int], None] = lambda epoch: None,
        after_step: Callable[[], object] = lambda: None,
    ) -> None:
        """Some epochs of groups of parameters, or of an optimizer; `before` is called with the number of each."""
        set_norm_momentum(model, self.recipe.norm_momentum)
        optimizer = (
            groups
            if isinstance(groups, torch.optim.Optimizer)
            else torch.optim.Adam(groups, lr=self.recipe.lr, fused=True)
        )
        rates = [rate_of(kind, is_arch=index > 0, epochs=epochs) for index in range(len(optimizer.param_groups))]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rates)
        plain = self.engine.plain_step(model, optimizer, penalty)

        def step(number: int, batch: Any) -> Any:
            loss = plain(number, batch)
            after_step()
            return loss

        for epoch in range(epochs):
            before(epoch)
            model.train()
            self.engine.train_epoch(step, epoch_seed(self.bout.seed, phase, epoch))
            schedule.step()

    def batches(self, count: int) -> Iterator[Any]:
        """Training batches, always the same."""
        return itertools.islice(self.engine.batches(0, alternate=False), count)

    def finish(self, found: nn.Module) -> dict[str, Any]:
        """Fine-tune and judge."""
        nasopt.recalibrate(found, self.batches(8))
        exported = self.engine.judge(found, self.data.test)
        self.train(found, found.parameters(), self.finetune, 2, "finetune")
        size, macs = (network_cost(found, metric, self.shape) for metric in ("size", "macs"))
        return {"size": size, "macs": macs, "exported": exported, "test": self.engine.judge(found, self.data.test)}


def uniform(trainer: Trainer) -> dict[str, Any]:
    """Train the widest network within the limit for as many epochs as the others."""

    def build(scale: float) -> nn.Module:
        torch.manual_seed(trainer.bout.seed)
        return NARROW[trainer.bout.task](trainer.data.num_classes, scale)

    scales = (1 - step / 128 for step in range(128))
    network = next(x for x in map(build, scales) if network_cost(x, "size", trainer.shape) <= trainer.limit)
    trainer.train(network, network.parameters(), trainer.warmup + trainer.search, 0)
    return trainer.finish(network)


def searched(trainer: Trainer, front: str, ranks: bool = False, **options: Any) -> dict[str, Any]:
    """A search of nasopt under a budget."""
    start = trainer.seed if front == "PIT" else supernet(trainer)
    return trainer.finish(
        search(trainer, front, start, trainer.limit, trainer.warmup, trainer.search, 0, ranks, **options)
    )


def one_after_the_other(trainer: Trainer) -> dict[str, Any]:
    """Branches in the first half of the search, to the square root of the share; then masks by importance."""
    half, limit = trainer.search // 2, trainer.limit / math.sqrt(trainer.bout.share)
    chosen = search(trainer, "SuperNet", supernet(trainer), limit, trainer.warmup, half, 0)
    return trainer.finish(search(trainer, "PIT", chosen, trainer.limit, 0, trainer.search - half, 20, ranks=True))


def supernet(trainer: Trainer) -> nn.Module:
    """The seed with one of several layers at each place."""
    torch.manual_seed(trainer.bout.seed)
    return trainer.task.supernet(trainer.data.num_classes)


def search(
    trainer: Trainer,
    front: str,
    start: nn.Module,
    limit: float,
    warmup: int,
    epochs: int,
    phase: int,
    ranks: bool = False,
    **options: Any,
) -> nn.Module:
    """What a search finds within a limit; with `ranks`, masks are set by importance, and what is off leaves the model."""
    steps = epochs * trainer.data.train.steps(trainer.recipe.batch_size) if ranks else None
    options["regularizer"] = nasopt.Budget(size=limit, steps=steps)
    if front != "PIT":
        cooling = nasopt.schedule.exponential(1.0, 0.1, epochs / 2)
        options |= {"paths": "sampled", "hard_softmax": True, "temperature": cooling}
    model = getattr(nasopt, front)(start, trainer.shape, **options)
    optimizer = torch.optim.Adam(model.param_groups(lr=trainer.recipe.lr, arch_lr=trainer.recipe.arch_lr), fused=True)
    phases = nasopt.PhaseSchedule(model, warmup=warmup, search=epochs, shrink=optimizer if ranks else ())

    def before(epoch: int) -> None:
        phases.set_epoch(warmup + epoch)
        if epoch >= epochs * 3 // 4 and not ranks:
            with contextlib.suppress(ConfigError):  # where a method decides by its weights alone
                model.settle_budget()

    trainer.train(model, optimizer, warmup, phase, before=phases.set_epoch)
    loss = phases.get_regularization_loss
    trainer.train(model, optimizer, epochs, phase + 1, "search", loss, before, phases.after_step)
    phases.step()
    return model.arch_export()


def taylor(trainer: Trainer) -> dict[str, Any]:
    """Torch-Pruning: a falling limit on the size, met by removing the least important channels after every epoch."""
    import torch_pruning as tp

    network, start = copy.deepcopy(trainer.seed), network_cost(trainer.seed, "size", trainer.shape)
    trainer.train(network, network.parameters(), trainer.warmup, 0)
    last = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)][-1]
    pruner = tp.pruner.BasePruner(
        network,
        torch.randn(2, *trainer.shape),
        importance=tp.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=0.98,
        max_pruning_ratio=0.95,
        iterative_steps=STEPS,
        ignored_layers=[last],
    )
    # A pruned parameter is a new one: every epoch has an optimizer of its own.
    for epoch in range(trainer.search):
        trainer.train(network, network.parameters(), 1, 100 + epoch)
        limit = start + (trainer.limit - start) * (epoch + 1) / trainer.search
        for _ in range(STEPS):
            if network_cost(network, "size", trainer.shape) <= limit:
                break
            network.zero_grad()
            for batch in trainer.batches(2):
                trainer.engine.criterion(network(batch.x), batch).backward()
            pruner.step()
    return trainer.finish(network)


def black_box(trainer: Trainer) -> dict[str, Any]:
    """`nasopt.prune_quantised` under a falling limit: ranked without data, ratios by Bayesian optimisation, after every epoch."""
    network: nn.Module = copy.deepcopy(trainer.seed)
    start = network_cost(network, "size", trainer.shape)
    trainer.train(network, network.parameters(), trainer.warmup, 0)
    val, inputs = trainer.data.val, [batch.x for batch in trainer.batches(2)]
    some = Split(val.x[:JUDGED], val.y[:JUDGED], None if val.group is None else val.group[:JUDGED])
    for epoch in range(trainer.search):
        trainer.train(network, network.parameters(), 1, 100 + epoch)
        limit = start + (trainer.limit - start) * (epoch + 1) / trainer.search
        weight = 0.1  # of the size in what is minimised: it grows until the limit is met
        while network_cost(network, "size", trainer.shape) > limit:
            if weight > 1e4:
                raise ConfigError(f"prune_quantised stops at {network_cost(network, 'size', trainer.shape):,} weights")
            judge = partial(trainer.engine.judge, split=some)
            options: dict[str, Any] = {"recalibrate": inputs, "weight_of_size": weight, "seed": trainer.bout.seed}
            network = nasopt.prune_quantised(network, trainer.shape, judge, **options).network
            weight *= 10
    return trainer.finish(network)


def by_command(trainer: Trainer) -> dict[str, Any]:
    """Another program, which trains by itself."""
    values = {**vars(trainer.bout), "limit": int(trainer.limit)}
    run = subprocess.run(
        shlex.split(trainer.bout.command.format(**values)), capture_output=True, text=True, check=False
    )
    if run.returncode or not run.stdout.strip():
        raise RuntimeError(f"the command ended with {run.returncode}: {run.stderr.strip()[-200:]}")
    found: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    return {key: found[key] for key in ("size", "macs", "exported", "test") if key in found}


METHODS: dict[str, Callable[[Trainer], dict[str, Any]]] = {
    "uniform": uniform,
    "pit": lambda trainer: searched(trainer, "PIT"),
    "importance": lambda trainer: searched(trainer, "PIT", ranks=True),
    "importance_channels": lambda trainer: searched(trainer, "PIT", ranks=True, kernel_search=False),
    "supernet": lambda trainer: searched(trainer, "SuperNet"),
    "pit_supernet": lambda trainer: searched(trainer, "PITSuperNet"),
    "importance_supernet": lambda trainer: searched(trainer, "PITSuperNet", ranks=True),
    "sequential": one_after_the_other,
    "taylor": taylor,
    "black_box": black_box,
}


def method_of(name: str) -> str:
    """Name of the method in `"importance:fall=0.5"`."""
    return name.split(":", maxsplit=1)[0]


def ranking_of(name: str) -> Ranking:
    """`"importance:fall=0.5:power=1"` with its settings of `Ranking`, which is the usual one without.

    Raises:
        ConfigError: there is no such setting, or it is no number.
    """
    pairs = [part.partition("=") for part in name.split(":")[1:]]
    try:
        return replace(importance.RANKING, **{key: float(value) for key, _, value in pairs})
    except (TypeError, ValueError) as error:
        known = ", ".join(vars(importance.RANKING))
        raise ConfigError(f"{name!r}: settings are name=number, of {known} ({error})") from error


def compete(bout: Bout) -> dict[str, Any]:
    """A row of the table; what cannot be done is a row too, with the reason as its note."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    row: dict[str, Any] = dict(zip(KEYS, bout.key, strict=True))
    start = time.process_time()
    try:
        with mock.patch.object(importance, "RANKING", ranking_of("" if bout.command else bout.method)):
            row |= METHODS.get(method_of(bout.method), by_command)(Trainer(bout))
    except (ConfigError, ImportError, RuntimeError, ValueError, OSError) as error:
        row["note"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"[:160]
    return row | {"cpu_s": round(time.process_time() - start, 1)}
