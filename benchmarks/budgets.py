"""Budget benchmark: PIT under twelve limits on ResNet-8 and the embedded digits; is each kept, and used up?

    python benchmarks/budgets.py                                      # 12 budgets
    python benchmarks/budgets.py --strengths 0.1 0.3 1 3              # plus hand-tuned strengths, for comparison
    python benchmarks/budgets.py --metrics size memory --shares 0.5 --search 6

The seed is warmed up once; every budget then searches from it, exports, and fine-tunes. For the last quarter of the search
decisions are made to keep to the limits (`settle_budget`), if they do not by then. Cost is counted on the exported network.
`used` is the cost over the limit: inside is at most 100 %. Accuracy is that on the test split after the last epoch; with
`--strengths` the same recipe runs with `relative=True` and a weight in place of a budget.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.networks import set_norm_momentum
from benchmarks_mlperf_tiny.tasks import TASKS
from benchmarks_mlperf_tiny.training import Engine, epoch_seed
from nasopt import PIT, Budget
from nasopt.cost import network_cost

TASK = TASKS["ic"]
SHAPE = TASK.input_shape
METRICS = {"size": "size", "macs": "macs", "latency": "latency_ms:cortex_m4", "memory": "memory"}
UNITS = {"size": "weights", "macs": "MAC", "latency": "ms", "memory": "B"}


class Trainer:
    """The task's recipe, a few epochs of it."""

    def __init__(self) -> None:
        self.recipe = TASK.datasets["digits"].recipe
        self.data = TASK.datasets["digits"].load(DataOptions())
        self.engine = Engine(TASK, self.data, "cpu", False, self.recipe.batch_size)

    def train(
        self, model: nn.Module, groups: Any, epochs: int, phase: int, penalty: Callable[[], Tensor] | None, cosine: bool
    ) -> None:
        """Train for some epochs with Adam; `groups` as an optimizer takes them."""
        optimizer = torch.optim.Adam(groups, lr=self.recipe.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs) if cosine else None
        step = self.engine.plain_step(model, optimizer, penalty)
        for epoch in range(epochs):
            model.train()
            self.engine.train_epoch(step, epoch_seed(0, phase, epoch))
            if schedule is not None:
                schedule.step()

    def search(self, seed: nn.Module, regularizer: Any, strength: float, relative: bool, options: Any) -> nn.Module:
        """The found network, fine-tuned."""
        model = PIT(copy.deepcopy(seed), SHAPE, regularizer=regularizer, relative=relative)
        groups = model.param_groups(lr=self.recipe.lr, arch_lr=options.arch_lr)
        settled = options.search // 4
        self.train(
            model, groups, options.search - settled, 1, lambda: strength * model.get_regularization_loss(), False
        )
        if model.budget is not None:
            model.settle_budget()
        self.train(model, groups, settled, 2, lambda: strength * model.get_regularization_loss(), False)
        found = model.arch_export()
        self.train(found, found.parameters(), options.finetune, 3, None, True)
        return found

    def accuracy(self, model: nn.Module) -> float:
        """On the test split."""
        return self.engine.judge(model, self.data.test)


def main() -> None:
    """Run the budgets and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", nargs="+", choices=list(METRICS), default=list(METRICS))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.25, 0.5, 0.75])
    parser.add_argument("--strengths", nargs="*", type=float, default=[])
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--search", type=int, default=8)
    parser.add_argument("--finetune", type=int, default=5)
    parser.add_argument("--arch-lr", type=float, default=1e-2)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    trainer = Trainer()
    seed = TASK.seed(10)
    set_norm_momentum(seed, trainer.recipe.norm_momentum)
    trainer.train(seed, seed.parameters(), options.warmup, 0, None, False)
    whole = copy.deepcopy(seed)
    trainer.train(whole, whole.parameters(), options.search + options.finetune, 3, None, True)
    costs = {name: network_cost(seed, metric, SHAPE) for name, metric in METRICS.items()}
    print(f"seed, trained as long: accuracy {trainer.accuracy(whole):.1%}", flush=True)
    print("| metric | limit | share of seed | cost | used | weights | accuracy | s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for name in options.metrics:
        for share in options.shares:
            started = time.monotonic()
            limit = share * costs[name]
            found = trainer.search(seed, Budget({METRICS[name]: limit}), 1.0, False, options)
            report(trainer, found, name, limit, share, started)
        for strength in options.strengths:
            started = time.monotonic()
            found = trainer.search(seed, METRICS[name], strength, True, options)
            report(trainer, found, name, None, strength, started)


def report(trainer: Trainer, found: nn.Module, name: str, limit: float | None, setting: float, started: float) -> None:
    """One row: of a budget, or of a strength where `limit` is None."""
    cost, size = (network_cost(found, metric, SHAPE) for metric in (METRICS[name], "size"))
    what = f"strength {setting:g}" if limit is None else f"{limit:,.6g} {UNITS[name]}"
    share = "" if limit is None else f"{setting:.0%}"
    used = "" if limit is None else f"{cost / limit:.1%}"
    cells = [name, what, share, f"{cost:,.6g}", used, f"{size:,}", f"{trainer.accuracy(found):.1%}"]
    print(f"| {' | '.join(cells)} | {time.monotonic() - started:.0f} |", flush=True)


if __name__ == "__main__":
    main()
