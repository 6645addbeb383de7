"""Accuracy in few bits: trained at fixed widths, searched, and assigned, from the same float network and at equal epochs.

    NASOPT_DATA=... python -m benchmarks.precision_accuracy --out precision        # 20 to 30 minutes on one core
    python -m benchmarks.precision_accuracy --out precision --table                # of what is there

Two tasks: ResNet-8 on some of the training images of CIFAR-10 (as JPEG, averaged down to `--size`), DS-CNN on spoken digits. A
seed trains a float network, from which every run starts: float again, fixed widths, and for ResNet-8 three ways to an average of
about 3 bits (as 3 bits with the first and last layer in 8) and two to a quarter of the flash in 8 bits, by channels and widths
together or one after the other. Adam, a cosine to 0, halves of search and fine-tuning. The figure is that of the last epoch, of
all test samples. Every finished run appends a line to `runs.csv` in `--out`; those that stand there are not run again, and float
networks are kept there, too.
"""

from __future__ import annotations

import argparse
import copy
import csv
import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.data.splits import Split
from benchmarks_mlperf_tiny.networks import set_norm_momentum
from benchmarks_mlperf_tiny.tasks import get_task
from nasopt import PIT, Budget, MixedPrecision, PhaseSchedule, Precision, allocate_bits
from nasopt.cost import network_calls

BATCH = 64
FLOAT_LR, LR, ARCH_LR = 2e-3, 1e-3, 2e-2
COLUMNS = ("task", "seed", "run", "epochs", "accuracy", "average_bits", "flash", "size", "seconds")
COMMON = ("float", "w8a8", "w4a8")
RUNS = {
    "ic": (*COMMON, "w4a4", "w3a8", "mixed 3", "allocated 3", "channels and widths", "channels, then widths"),
    "kws": COMMON,
}
MIXED = Precision(weights=(2, 3, 4, 8))


class Experiment:
    """All runs of one task and seed.

    Args:
        task: `"ic"` or `"kws"`.
        seed: of weights and order.
        options: of the command line.
    """

    def __init__(self, task: str, seed: int, options: argparse.Namespace) -> None:
        self.task, self.seed, self.epochs = get_task(task), seed, options.epochs
        data = self.task.dataset("cifar10_12k" if task == "ic" else "fsdd").load(DataOptions())
        train = Split(data.train.x[: options.images], data.train.y[: options.images])
        self.data = dataclasses.replace(data, train=train)
        self.shrinks = options.size if task == "ic" else None
        channels, side, *_ = self.task.input_shape
        self.shape = (channels, self.shrinks, self.shrinks) if self.shrinks else self.task.input_shape
        torch.manual_seed(seed)
        self.start: Any = self.task.seed(self.data.num_classes)
        if self.shrinks and self.shrinks != side:
            self.start.pool = nn.AvgPool2d(self.shrinks // 4)
        set_norm_momentum(self.start, 0.1)
        kept = options.out / f"{task}-{seed}.pt"
        if kept.exists():
            self.start.load_state_dict(torch.load(kept, weights_only=True))
        else:
            groups = [{"params": self.start.parameters(), "lr": FLOAT_LR}]
            self.train(self.start, self.start, options.pretrain, groups)
            torch.save(self.start.state_dict(), kept)

    def arrange(self, x: Tensor) -> Tensor:
        """Network inputs of a batch, with their channels last in memory, which is faster."""
        x = x if self.data.prepare is None else self.data.prepare(x)
        x = F.adaptive_avg_pool2d(x, self.shrinks) if self.shrinks else x
        return x.contiguous(memory_format=torch.channels_last)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch, in an order of its own."""
        generator = torch.Generator().manual_seed(1000 * self.seed + epoch)
        for x, y in self.data.train.shuffled(BATCH, generator):
            yield self.arrange(x if self.data.augment is None else self.data.augment(x, generator)), y

    def train(self, model: Any, network: nn.Module, epochs: int, groups: list[Any], phases: Any = None) -> None:
        """Adam; rates of weights fall to 0 along half a cosine."""
        torch.manual_seed(self.seed)
        optimizer = torch.optim.Adam(groups)
        rates = [group["lr"] for group in optimizer.param_groups]
        steps, step = epochs * self.data.train.steps(BATCH), 0
        for epoch in range(epochs):
            network.train()
            for x, y in self.batches(epoch):
                for index, (group, rate) in enumerate(zip(optimizer.param_groups, rates)):
                    is_arch = phases is not None and index == 1
                    group["lr"] = rate * (1.0 if is_arch else 0.5 * (1 + math.cos(math.pi * step / steps)))
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                (loss if phases is None else loss + phases.get_regularization_loss()).backward()
                optimizer.step()
                step += 1
            if phases is not None:
                phases.step()

    def search(self, model: Any, epochs: int, finds: bool = True) -> nn.Module:
        """A search model through half of the epochs of search and half of fine-tuning; without `finds` all one phase."""
        searching = epochs // 2 if finds else epochs
        phases = PhaseSchedule(model, search=searching, finetune=epochs - searching, strength=None if finds else 0.0)
        self.train(model, model, epochs, model.param_groups(LR, ARCH_LR), phases)
        return model.arch_export()

    def budget(self, epochs: int, **limits: float) -> Budget:
        """Limits that masks are set by over the search of so many epochs."""
        return Budget(limits, steps=epochs // 2 * self.data.train.steps(BATCH))

    def fixed(self, weights: Any, activations: int) -> nn.Module:
        """Trained at fixed widths."""
        precision = Precision(weights, activations)
        return self.search(MixedPrecision(self.start, self.shape, precision=precision), self.epochs, finds=False)

    def bytes_of_eight_bits(self) -> float:
        """Flash of the network in 8 bits."""
        return float(MixedPrecision(self.start, self.shape, precision=8, verify=False).get_cost("flash", discrete=True))

    def run(self, name: str) -> nn.Module:
        """The trained network of a run."""
        network = copy.deepcopy(self.start)
        if name == "float":
            self.train(network, network, self.epochs, [{"params": network.parameters(), "lr": LR}])
            return network
        if name[0] == "w":
            return self.fixed(int(name[1]), int(name[3]))
        if name.endswith(" 3"):
            uniform = MixedPrecision(network, self.shape, precision=Precision(weights=3), verify=False)
            budget = Budget(average_bits=uniform.get_cost("average_bits", discrete=True))
            model = MixedPrecision(network, self.shape, precision=MIXED, regularizer=budget)
            if name.startswith("mixed"):
                return self.search(model, self.epochs)
            some = [batch for batch, _ in zip(self.batches(0), range(8))]
            model.calibrate(some)
            return self.fixed(allocate_bits(model, some, budget), 8)
        limit = self.bytes_of_eight_bits() / 4
        if name == "channels and widths":
            budget = self.budget(self.epochs, flash=limit)
            return self.search(PIT(network, self.shape, precision=MIXED, regularizer=budget), self.epochs)
        half = self.epochs // 2
        size = network_calls(network, self.shape).total("size") / 2
        found = self.search(PIT(network, self.shape, regularizer=self.budget(half, size=float(size))), half)
        model = MixedPrecision(found, self.shape, precision=MIXED, regularizer=Budget(flash=limit))
        return self.search(model, self.epochs - half)

    @torch.no_grad()
    def accuracy(self, network: nn.Module) -> float:
        """Share of test examples that are right."""
        network.eval()
        hits = [(network(self.arrange(x)).argmax(1) == y).float() for x, y in self.data.test.batches(250)]
        return float(torch.cat(hits).mean())


def read(path: Path) -> list[dict[str, str]]:
    """Finished runs."""
    return list(csv.DictReader(path.open())) if path.exists() else []


def write(path: Path, row: dict[str, Any]) -> None:
    """Append a run."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def table(rows: list[dict[str, str]]) -> str:
    """Means over seeds, with standard errors, and differences to the float network, paired by seed."""
    lines = [
        f"{'task':4} {'run':22} {'seeds':>5} {'accuracy [%]':>14} {'minus float':>14} {'bits':>6} {'flash [B]':>10}"
    ]
    by = {(row["task"], row["run"], row["seed"]): row for row in rows}
    for task, runs in RUNS.items():
        for run in runs:
            own = {seed: row for (t, r, seed), row in by.items() if (t, r) == (task, run)}
            if not own:
                continue
            pairs = [
                100 * (float(row["accuracy"]) - float(by[task, "float", seed]["accuracy"]))
                for seed, row in own.items()
                if (task, "float", seed) in by
            ]
            bits, flash = (
                statistics.mean(float(row[key]) for row in own.values()) for key in ("average_bits", "flash")
            )
            shown = mean_and_error([100 * float(row["accuracy"]) for row in own.values()])
            lines.append(
                f"{task:4} {run:22} {len(own):5} {shown:>14} {mean_and_error(pairs):>14} {bits:6.2f} {flash:10,.0f}"
            )
    return "\n".join(lines)


def mean_and_error(values: list[float]) -> str:
    """`mean (standard error)`."""
    if not values:
        return ""
    error = f" ({statistics.stdev(values) / math.sqrt(len(values)):.2f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{error}"


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("precision"), help="folder")
    parser.add_argument("--tasks", default="kws,ic")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=6000, help="for training, of 12,000; there are 2,400 words")
    parser.add_argument("--pretrain", type=int, default=8, help="epochs of the float network")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of every run from there")
    parser.add_argument("--size", type=int, default=16, help="side of the images of ResNet-8, up to 32")
    parser.add_argument("--most", type=int, default=1000, help="runs in this call; the next one goes on")
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    path, left = options.out / "runs.csv", options.most
    for seed in range(0 if options.table else options.seeds):
        for task in options.tasks.split(","):
            done = {row["run"] for row in read(path) if (row["task"], row["seed"]) == (task, str(seed))}
            missing = [run for run in RUNS[task] if run not in done][:left]
            left -= len(missing)
            experiment: Callable[[], Experiment] | Any = Experiment(task, seed, options) if missing else None
            for run in missing:
                started = time.process_time()
                network = experiment.run(run)
                calls = network_calls(network, experiment.shape)
                costs = {name: round(float(calls.total(name)), 3) for name in ("average_bits", "flash", "size")}
                row = {"task": task, "seed": seed, "run": run, "epochs": options.epochs}
                row |= {"accuracy": round(experiment.accuracy(network), 5), **costs}
                write(path, row | {"seconds": round(time.process_time() - started, 1)})
    print(table(read(path)))


if __name__ == "__main__":
    main()
