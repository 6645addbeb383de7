"""What do `PhaseSchedule` and `SearchCallback` add to a training step? Against the same step with the loss written by hand.

    python -m benchmarks.step_overhead                    # one thread, batch 32; 200 steps of each kind, epochs of 50
    python -m benchmarks.step_overhead --only resnet8 --fits 4

Plain loop: steps of both kinds alternate. Lightning: fits of both kinds alternate, two epochs each; a step is the time from
one batch to the next with all hooks. What happens once per epoch (phases, exact costs, logging) is timed apart and
divided by the steps of an epoch. Times are CPU times, figures medians; `overhead` is that of a step and its share of the epoch.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.step_time import BATCH, NETWORKS, seconds
from benchmarks.torchvision_models import load_torchvision
from nasopt import PIT, PhaseSchedule

load_torchvision()  # Lightning imports it where it is installed

import lightning.pytorch as L  # noqa: E402

from nasopt.lightning import SearchCallback  # noqa: E402

# A vanishing strength and learning rate of the architecture, so that all steps do the same work.
STRENGTH = 1e-12
EPOCHS = 2


def optimizer_of(model: PIT) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.param_groups(lr=1e-4, arch_lr=1e-9))


def step_of(model: PIT, x: Tensor, optimizer: torch.optim.Optimizer, penalty: Callable[[], Tensor]) -> Any:
    def step() -> None:
        optimizer.zero_grad()
        (model(x).square().mean() + penalty()).backward()
        optimizer.step()

    return step


def plain_loop(model: PIT, x: Tensor, steps: int) -> tuple[float, float, float]:
    """Seconds of a step by hand, of one with the schedule, and of `phases.step()`."""
    optimizer = optimizer_of(model)
    phases = PhaseSchedule(model, search=100, strength=STRENGTH)
    by_hand = step_of(model, x, optimizer, lambda: STRENGTH * model.get_regularization_loss())
    led = step_of(model, x, optimizer, phases.get_regularization_loss)
    for _ in range(5):
        by_hand(), led()
    pairs = [(seconds(by_hand), seconds(led)) for _ in range(steps)]
    switch = statistics.median(seconds(phases.step) for _ in range(50))
    return *(statistics.median(side) for side in zip(*pairs)), switch  # type: ignore[return-value]


class Lit(L.LightningModule):
    """A search; the regularizer is written by hand or comes from the callback."""

    def __init__(self, model: PIT, by_hand: bool) -> None:
        super().__init__()
        self.model, self.by_hand = model, by_hand

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.model(batch).square().mean()
        return loss + STRENGTH * self.model.get_regularization_loss() if self.by_hand else loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_of(self.model)


class Watch(L.Callback):
    """CPU time from batch to batch of every epoch."""

    def __init__(self) -> None:
        self.starts: list[list[float]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.starts.append([])
        self.starts[-1].append(time.process_time())

    def times(self) -> list[float]:
        """Without the first steps of every epoch."""
        return [b - a for starts in self.starts for a, b in pairwise(starts[3:])]


class TimedSearch(SearchCallback):  # type: ignore[misc]
    """The callback, with the times of what it does once per epoch."""

    def __init__(self) -> None:
        super().__init__(STRENGTH)
        self.times: list[float] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.times.append(seconds(lambda: super(TimedSearch, self).on_train_epoch_start(trainer, pl_module)))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.times[-1] += seconds(lambda: super(TimedSearch, self).on_train_epoch_end(trainer, pl_module))


def lightning_fit(model: PIT, x: Tensor, steps: int, by_hand: bool) -> tuple[list[float], list[float]]:
    """Seconds of steps, and of the callback's work per epoch."""
    watch, search = Watch(), TimedSearch()
    trainer = L.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[watch] if by_hand else [search, watch],
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    trainer.fit(Lit(model, by_hand), DataLoader([x] * steps, batch_size=None))
    return watch.times(), search.times


def measure(build: Callable[[], nn.Module], shape: tuple[int, ...], steps: int, fits: int) -> list[tuple[Any, ...]]:
    x = torch.randn(BATCH, *shape)
    model = PIT(build(), shape, regularizer="macs")
    rows = [("PhaseSchedule", *plain_loop(model, x, EPOCHS * fits * steps))]
    hand: list[float] = []
    led: list[float] = []
    switches: list[float] = []
    for _ in range(fits):
        hand += lightning_fit(model, x, steps, True)[0]
        times, of_epochs = lightning_fit(model, x, steps, False)
        led += times
        switches += of_epochs
    return [*rows, ("SearchCallback", statistics.median(hand), statistics.median(led), statistics.median(switches))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50, help="per epoch")
    parser.add_argument("--fits", type=int, default=2, help="of each kind, of two epochs each")
    parser.add_argument("--only", choices=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="The 'train_dataloader' does not have many workers")
    print(f"{'network':14} {'with':15} {'by hand ms':>11} {'step ms':>9} {'per epoch ms':>13} {'overhead':>9}")
    for name, (build, shape) in NETWORKS.items():
        if options.only not in (None, name):
            continue
        for what, hand, led, switch in measure(build, shape, options.steps, options.fits):
            overhead = (led + switch / options.steps) / hand - 1
            print(
                f"{name:14} {what:15} {hand * 1e3:11.3f} {led * 1e3:9.3f} {switch * 1e3:13.3f} {overhead:9.2%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
