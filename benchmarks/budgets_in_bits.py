"""Budgets on channels and bits: PIT with searched widths under twelve limits on the embedded digits; is each kept, and used up?

    python benchmarks/budgets_in_bits.py                                     # 12 budgets, a few minutes on one core
    python benchmarks/budgets_in_bits.py --metrics memory --front MixedPrecision

A small residual network learns scikit-learn's 8 x 8 digits under noise; every budget then searches widths of weights and
activations (and channels, with `PIT`) from it, settles, exports, and fine-tunes. Shares are of the seed in 8 bits. Cost is
counted on the exported network. On `gap9_ne16` activations have 8 bits, which is what runs there. Ends
with 1 where a limit is not kept.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from nasopt import PIT, Budget, MixedPrecision, Precision
from nasopt.cost import network_cost

SHAPE = (1, 8, 8)
WEIGHTS, ACTIVATIONS = (2, 3, 4, 6, 8), (4, 6, 8)
METRICS: dict[str, tuple[str, tuple[float, ...]]] = {
    "flash": ("flash", (0.25, 0.4, 0.6)),
    "memory": ("memory", (0.5, 0.65, 0.8)),
    "latency": ("latency:gap9_ne16", (0.6, 0.7, 0.8)),
    "average_bits": ("average_bits", (2.5 / 8, 3.5 / 8, 5 / 8)),
}
UNITS = {"flash": "B", "memory": "B", "latency": "cycles", "average_bits": "bit"}
FRONTS: dict[str, Any] = {"PIT": PIT, "MixedPrecision": MixedPrecision}


class Block(nn.Module):
    """Two convolutions around which the input is added."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(after), nn.BatchNorm2d(after)])
        self.shortcut = nn.Conv2d(before, after, 1, stride) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) -> (N, after, H/stride, W/stride)."""
        y = self.norms[1](self.second(F.relu(self.norms[0](self.first(x)))))
        return F.relu(y + self.shortcut(x))


def network() -> nn.Module:
    """Images (N, 1, 8, 8) -> logits (N, 10); about 20,000 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16, 16, 1),
        Block(16, 32, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


class Digits:
    """1,197 images to train on, under fresh noise in every epoch, and 600 to test."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        images, classes = load_digits(return_X_y=True)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        x = torch.tensor(images, dtype=torch.float32).reshape(-1, *SHAPE)[order] / 8 - 1
        y = torch.tensor(classes)[order]
        self.train, self.test = (x[:1197], y[:1197]), (x[1197:], y[1197:])
        self.noise = 0.45 * torch.randn(self.test[0].shape, generator=torch.Generator().manual_seed(1))

    def batches(self, size: int = 100) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch."""
        x, y = self.train
        for index in torch.randperm(len(x)).split(size):
            yield x[index] + 0.45 * torch.randn_like(x[index]), y[index]

    def fit(self, model: Any, groups: Any, epochs: int, price: Any = None) -> None:
        """Train; `price`: a method that gives what to add to the loss."""
        optimizer = torch.optim.Adam(groups, lr=2e-3)
        for _ in range(epochs):
            model.train()
            for x, y in self.batches():
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                (loss if price is None else loss + price()).backward()
                optimizer.step()

    def accuracy(self, model: nn.Module) -> float:
        """On the test images."""
        model.eval()
        with torch.no_grad():
            return float((model(self.test[0] + self.noise).argmax(1) == self.test[1]).float().mean())


def search(seed: nn.Module, digits: Digits, front: str, name: str, limit: float, options: Any) -> nn.Module:
    """The network that is found inside a limit, fine-tuned."""
    metric, _ = METRICS[name]
    precision = Precision(weights=WEIGHTS, activations=8 if name == "latency" else ACTIVATIONS)
    model = FRONTS[front](copy.deepcopy(seed), SHAPE, precision=precision, regularizer=Budget({metric: limit}))
    model.calibrate(digits.batches())
    digits.fit(model, model.param_groups(lr=2e-3, arch_lr=2e-2), options.search, model.get_regularization_loss)
    model.settle_budget()
    found: nn.Module = model.arch_export()
    digits.fit(found, found.parameters(), options.finetune)
    return found


def main() -> int:
    """Run the budgets, print a table, and tell whether all limits are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", nargs="+", choices=list(METRICS), default=list(METRICS))
    parser.add_argument("--front", choices=list(FRONTS), default="PIT")
    parser.add_argument("--warmup", type=int, default=15)
    parser.add_argument("--search", type=int, default=6)
    parser.add_argument("--finetune", type=int, default=4)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    digits, seed = Digits(), network()
    digits.fit(seed, seed.parameters(), options.warmup)
    eight = MixedPrecision(copy.deepcopy(seed), SHAPE, precision=8)
    print(f"seed in floats: accuracy {digits.accuracy(seed):.1%}", flush=True)
    print("| metric | limit | of 8 bits | cost | used | bits | size | accuracy | s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    used = []
    for name in options.metrics:
        metric, shares = METRICS[name]
        whole = float(eight.get_cost(metric, discrete=True))
        for share in shares:
            started = time.monotonic()
            found = search(seed, digits, options.front, name, share * whole, options)
            cost, bits, size = (network_cost(found, one, SHAPE) for one in (metric, "average_bits", "size"))
            used.append(cost / (share * whole))
            cells = [name, f"{share * whole:,.6g} {UNITS[name]}", f"{share:.0%}", f"{cost:,.6g}", f"{used[-1]:.1%}"]
            cells += [f"{bits:.2f}", f"{size:,}", f"{digits.accuracy(found):.1%}", f"{time.monotonic() - started:.0f}"]
            print(f"| {' | '.join(cells)} |", flush=True)
    print(f"inside: {sum(one <= 1 for one in used)} of {len(used)}; least used: {min(used):.1%}")
    return int(any(one > 1 for one in used))


if __name__ == "__main__":
    sys.exit(main())
