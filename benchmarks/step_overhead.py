"""Overhead of `PhaseSchedule` and `SearchCallback` on a training step, against the same step with the loss written by hand.

    python -m benchmarks.step_overhead                    # one thread, batch 32; 4 epochs of 100 steps
    python -m benchmarks.step_overhead --only resnet8 --epochs 2

Steps of both kinds alternate in one loop, and in one `fit` of Lightning, where a step is the time from one batch to the next with
all hooks. What happens once per epoch (phases, exact costs, logging) is timed apart and divided by the steps of an epoch.
Times are CPU times; `overhead` is the median difference of neighbouring steps plus that share, over the step by hand.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from benchmarks.step_time import BATCH, NETWORKS, seconds
from benchmarks.torchvision_models import load_torchvision
from nasopt import PIT, PhaseSchedule

load_torchvision()  # Lightning imports it where it is installed

import lightning.pytorch as L  # noqa: E402

from nasopt.lightning import SearchCallback  # noqa: E402

# A vanishing strength and learning rate of the architecture, so that all steps do the same work.
STRENGTH = 1e-12


def optimizer_of(model: PIT) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.param_groups(lr=1e-4, arch_lr=1e-9))


def step_of(model: PIT, x: Tensor, optimizer: torch.optim.Optimizer, penalty: Callable[[], Tensor]) -> Any:
    def step() -> None:
        optimizer.zero_grad()
        (model(x).square().mean() + penalty()).backward()
        optimizer.step()

    return step


def plain_loop(model: PIT, x: Tensor, steps: int) -> tuple[list[tuple[float, float]], float]:
    """Seconds of pairs of steps, by hand and with the schedule, and of `phases.step()`."""
    optimizer = optimizer_of(model)
    phases = PhaseSchedule(model, search=100, strength=STRENGTH)
    by_hand = step_of(model, x, optimizer, lambda: STRENGTH * model.get_regularization_loss())
    led = step_of(model, x, optimizer, phases.get_regularization_loss)
    for _ in range(5):
        by_hand(), led()
    pairs = [(seconds(by_hand), seconds(led)) for _ in range(steps // 2)]
    return pairs, statistics.median(seconds(phases.step) for _ in range(50))


class Lit(L.LightningModule):
    """A search; the regularizer is written by hand or comes from the callback."""

    def __init__(self, model: PIT) -> None:
        super().__init__()
        self.model, self.by_hand = model, False

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.model(batch).square().mean()
        return loss + STRENGTH * self.model.get_regularization_loss() if self.by_hand else loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_of(self.model)


class TimedSearch(SearchCallback):  # type: ignore[misc]
    """The callback, with the times of what it does once per epoch."""

    def __init__(self) -> None:
        super().__init__(STRENGTH)
        self.times: list[float] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.times.append(seconds(lambda: super(TimedSearch, self).on_train_epoch_start(trainer, pl_module)))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.times[-1] += seconds(lambda: super(TimedSearch, self).on_train_epoch_end(trainer, pl_module))


class Alternate(L.Callback):
    """Takes the search callback out of every other step, and notes the CPU time from batch to batch."""

    def __init__(self, search: TimedSearch) -> None:
        self.search, self.starts, self.step = search, [], None  # type: ignore[var-annotated]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.starts.append([])
        pl_module.by_hand = batch_idx % 2 == 0
        if pl_module.by_hand:
            self.step = vars(pl_module).pop("training_step")
            trainer.callbacks = [self]
        else:
            pl_module.training_step = self.step
            trainer.callbacks = [self.search, self]
        self.starts[-1].append(time.process_time())

    def pairs(self) -> list[tuple[float, float]]:
        """Seconds of neighbouring steps, by hand and with the callback, without the first ones of every epoch."""
        times = [[b - a for a, b in pairwise(starts[4:])] for starts in self.starts]
        return [pair for of_epoch in times for pair in zip(of_epoch[::2], of_epoch[1::2])]


def lightning_loop(model: PIT, x: Tensor, steps: int, epochs: int) -> tuple[list[tuple[float, float]], float]:
    """Seconds of pairs of steps, and of the callback's work per epoch."""
    search = TimedSearch()
    alternate = Alternate(search)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[search, alternate],
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    trainer.fit(Lit(model), DataLoader([x] * steps, batch_size=None))
    return alternate.pairs(), statistics.median(search.times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="per epoch")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--only", choices=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="The 'train_dataloader' does not have many workers")
    warnings.filterwarnings("ignore", message="`isinstance.treespec, LeafSpec.` is deprecated")
    print(f"{'network':14} {'with':15} {'by hand ms':>11} {'step ms':>9} {'per epoch ms':>13} {'overhead':>9}")
    for name, (build, shape) in NETWORKS.items():
        if options.only not in (None, name):
            continue
        x, model = torch.randn(BATCH, *shape), PIT(build(), shape, regularizer="macs")
        results = {
            "PhaseSchedule": plain_loop(model, x, options.steps * options.epochs),
            "SearchCallback": lightning_loop(model, x, options.steps, options.epochs),
        }
        for what, (pairs, switch) in results.items():
            hand, led = (statistics.median(side) for side in zip(*pairs))
            overhead = statistics.median(b - a for a, b in pairs) + switch / options.steps
            shown = f"{hand * 1e3:11.3f} {led * 1e3:9.3f} {switch * 1e3:13.3f} {overhead / hand:9.2%}"
            print(f"{name:14} {what:15} {shown}", flush=True)


if __name__ == "__main__":
    main()
