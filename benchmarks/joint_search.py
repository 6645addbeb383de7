"""Joint against sequential search of layers and channels: accuracy against size, at equal total epochs.

    NASOPT_DATA=... python -m benchmarks.joint_search --out joint.jsonl    # under an hour on one core
    python -m benchmarks.joint_report joint.jsonl --plot joint.png         # table and plot of what is there

A class-balanced subset of CIFAR-10 (as JPEG) at 16x16, ResNet-8 of width 8, candidates at every convolution with more than
one tap. Every run trains for `warmup + search + finetune` epochs in all and pays `strength * size / seed's size`: a tenth of
the strength in the first half of the search, all of it in the second. After the first half branches are settled (temperatures
have fallen), a search in two stages exports, and a schedule thaws the masks. All runs of a seed that start from the same
network share its warm-up. Every finished run appends a line to `--out`; those that stand there already are not run again.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from benchmarks_mlperf_tiny.networks import resnet8, set_norm_momentum
from examples.cifar_subset import batches, load_subset
from nasopt import PIT, PITSuperNet, SuperNet, schedule, with_candidates
from nasopt.cost import network_cost

SHAPE = (3, 16, 16)
BATCH = 50
LR, ARCH_LR = 2e-3, 1.5e-2
Results = list[dict[str, Any]]


@dataclass(frozen=True)
class Method:
    """One way to search.

    Attributes:
        title: for the table.
        stages: `"pit"`, `"supernet"` or `"joint"`, one after the other.
        masks: `branch_masks` of the joint search.
        freezes: whether masks wait for the first half of a joint search.
    """

    title: str
    stages: tuple[str, ...]
    masks: str = "shared"
    freezes: bool = False


METHODS = {
    "pit": Method("PIT", ("pit",)),
    "supernet": Method("SuperNet", ("supernet",)),
    "sequential": Method("PIT after SuperNet", ("supernet", "pit")),
    "shared": Method("PITSuperNet, shared masks", ("joint",)),
    "shared_freeze": Method("PITSuperNet, shared masks, schedule", ("joint",), freezes=True),
    "independent": Method("PITSuperNet, independent masks", ("joint",), "independent"),
    "independent_freeze": Method("PITSuperNet, independent masks, schedule", ("joint",), "independent", True),
}


class Experiment:
    """All runs of one seed: data, warm networks, training."""

    def __init__(self, seed: int, options: argparse.Namespace, data: tuple[Tensor, Tensor]) -> None:
        self.seed, self.options, self.data = seed, options, data
        torch.manual_seed(seed)
        self.plain: Any = resnet8(width=options.width)
        self.plain.pool = nn.AvgPool2d(SHAPE[1] // 4)
        set_norm_momentum(self.plain, 0.1)
        self.size = network_cost(self.plain, "size", SHAPE)
        self._warm: dict[bool, nn.Module] = {}

    def warm(self, has_branches: bool) -> nn.Module:
        """A copy of the network that a search starts from, trained for the epochs of the warm-up."""
        if has_branches not in self._warm:
            torch.manual_seed(self.seed)
            start = copy.deepcopy(self.plain)
            if has_branches:
                start = with_candidates(start, SHAPE, identity=self.options.identity)
            model = self.supernet(start, 1) if has_branches else start
            parameters = model.net_parameters() if isinstance(model, SuperNet) else model.parameters()
            self.train(model, [{"params": list(parameters), "lr": LR}], self.options.warmup, 0)
            start.load_state_dict(model.net.state_dict() if isinstance(model, SuperNet) else model.state_dict())
            self._warm[has_branches] = start
        return copy.deepcopy(self._warm[has_branches])

    def supernet(self, start: nn.Module, epochs: float, **joint: Any) -> SuperNet | PITSuperNet:
        """One sampled branch per step; temperatures fall, so that branches are settled after `epochs`."""
        kind: Any = PITSuperNet if joint else SuperNet
        cold = schedule.exponential(1.0, self.options.cold, epochs)
        return kind(start, SHAPE, paths="sampled", hard_softmax=True, temperature=cold, **joint)

    def run(self, method: Method, strength: float) -> tuple[nn.Module, list[int]]:
        """The found network, fine-tuned, and the branches that were chosen."""
        chosen: list[int] = []
        network = self.warm(method.stages[0] != "pit")
        half = self.options.search // 2
        for number, stage in enumerate(method.stages):
            model: Any
            if stage == "pit":
                model = PIT(network, SHAPE, kernel_search=False)
            elif stage == "supernet":
                model = self.supernet(network, half)
            else:
                model = self.supernet(network, half, branch_masks=method.masks, kernel_search=False)
            first, epochs = number * half, half if len(method.stages) == 2 else 2 * half
            self.search(model, epochs, first, strength, half if method.freezes else 0)
            if stage != "pit":
                chosen = [choice["chosen"] for choice in model.choice_summary().values()]
            network = model.arch_export()
        self.train(network, [{"params": list(network.parameters()), "lr": LR}], self.options.finetune, 9, cosine)
        return network, chosen

    def search(self, model: Any, epochs: int, first: int, strength: float, waiting: int) -> None:
        """Epochs of the search from `first` on; the learning rate of the architecture falls over the second half.

        Masks wait for the first `waiting` epochs.
        """
        half = self.options.search // 2

        def factors(epoch: int, _: int) -> tuple[float, float]:
            return 1.0, min(1.0, 2 - (first + epoch) / half)

        def penalty(epoch: int) -> Tensor:
            model.hold(("alpha", "beta", "gamma") if epoch < waiting else ())
            share = 0.1 if first + epoch < half else 1.0
            return share * strength / self.size * model.get_regularization_loss()

        model.hold(("alpha", "beta", "gamma") if waiting else ())
        self.train(model, model.param_groups(LR, ARCH_LR), epochs, 1 + first, factors, penalty)

    def train(
        self,
        model: nn.Module,
        groups: list[dict[str, Any]],
        epochs: int,
        phase: int,
        factors: Callable[[int, int], tuple[float, ...]] = lambda epoch, epochs: (1.0, 1.0),
        penalty: Callable[[int], Tensor] | None = None,
    ) -> None:
        """Adam; `factors(epoch, epochs)` of the learning rates of the groups."""
        optimizer = torch.optim.Adam(groups)
        rates = [group["lr"] for group in optimizer.param_groups]
        torch.manual_seed(100 * self.seed + phase)
        order = torch.Generator().manual_seed(100 * self.seed + phase)
        for epoch in range(epochs):
            for group, rate, factor in zip(optimizer.param_groups, rates, factors(epoch, epochs)):
                group["lr"] = rate * factor
            if penalty is not None and hasattr(model, "set_epoch"):
                model.set_epoch(epoch)
            model.train()
            for x, y in batches(*self.data, BATCH, order):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                (loss if penalty is None else loss + penalty(epoch)).backward()
                optimizer.step()


def cosine(epoch: int, epochs: int) -> tuple[float, ...]:
    """Half a cosine to zero."""
    return (0.5 * (1 + math.cos(math.pi * epoch / epochs)),)


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers [%]."""
    model.eval()
    right = sum(int((model(part).argmax(1) == label).sum()) for part, label in zip(x.split(250), y.split(250)))
    return 100 * right / len(y)


def finished(path: Path) -> Results:
    """Lines of an earlier run."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def load(part: str, count: int) -> tuple[Tensor, Tensor]:
    """Images at half their resolution, `(count, 3, 16, 16)`, and labels."""
    x, y = load_subset(part, count)
    return F.avg_pool2d(x, 2), y


def run_all(options: argparse.Namespace) -> None:
    """Everything that is missing, seed after seed."""
    done = {(r["method"], r["strength"], r["seed"]) for r in finished(options.out)}
    data, tests = load("train", options.images), load("test", options.tests)
    for seed in range(options.seeds):
        experiment = Experiment(seed, options, data)
        for strength in options.strengths:
            for name in options.methods:
                if (name, strength, seed) in done:
                    continue
                start = time.process_time()
                network, chosen = experiment.run(METHODS[name], strength)
                result = {
                    "method": name,
                    "strength": strength,
                    "seed": seed,
                    "size": network_cost(network, "size", SHAPE),
                    "macs": network_cost(network, "macs", SHAPE),
                    "chosen": chosen,
                    "accuracy": accuracy(network, *tests),
                    "seconds": round(time.process_time() - start, 1),
                }
                with options.out.open("a") as file:
                    file.write(json.dumps(result) + "\n")


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("joint_search.jsonl"))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--strengths", nargs="+", type=float, default=[0.1, 0.3, 1])
    numbers = {"seeds": 3, "images": 1500, "tests": 2500, "width": 8, "warmup": 3, "search": 8, "finetune": 5}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--identity", action=argparse.BooleanOptionalAction, default=True, help="as a candidate")
    parser.add_argument("--cold", type=float, default=0.1, help="temperature in the second half of a search")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    run_all(options)


if __name__ == "__main__":
    main()
