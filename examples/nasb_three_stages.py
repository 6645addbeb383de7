"""The three stages of NASB as three calls, on a seed shaped like ResNet-8 or ResNet-18.

    python -m examples.nasb_three_stages --seed resnet8 --steps 20

Trains on random images to show the way; `examples/nasb_accuracy.py` does the same on real ones.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from benchmarks_mlperf_tiny.networks import ResidualBlock, resnet8
from examples.draw_cells import draw_cells
from nasopt import NASB
from nasopt.methods.nasb import AlternatingSearch, binarize, fine_tune_optimizer, full_precision, pack

SHAPE = (3, 32, 32)


def resnet18(width: int = 16, classes: int = 10) -> nn.Module:
    """Four stages of two blocks, as ResNet-18 has them, for 32x32 images: `(B, 3, 32, 32) -> (B, classes)`."""
    stages = []
    for i in range(4):
        inputs, outputs = max(width, width << i >> 1), width << i
        stages.append(
            nn.Sequential(ResidualBlock(inputs, outputs, 1 if i == 0 else 2), ResidualBlock(outputs, outputs, 1))
        )
    stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width << 3, classes))
    return nn.Sequential(stem, *stages, head)


SEEDS = {"resnet8": (resnet8, ["stack1", "stack2", "stack3"]), "resnet18": (resnet18, ["1", "2", "3", "4"])}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], steps: int) -> float:
    """Loss after some steps."""
    model.train()
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", choices=SEEDS, default="resnet8")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--picture", default=None, help="file for a drawing of the found cells")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    make, cells = SEEDS[options.seed]
    batch = (torch.randn(32, *SHAPE), torch.randint(0, 10, (32,)))

    # 1 search, binary
    model = NASB(make(), SHAPE, cells=cells, regularizer="ops")
    search = AlternatingSearch(model, F.cross_entropy, strength=1e-8)
    for _ in range(options.steps):
        search.arch_step(batch)
        search.weight_step(batch)
    print(model)
    if options.picture:
        draw_cells(model.cell_summary(), options.picture)

    # 2 pre-train the found network in full precision
    twin = full_precision(model.arch_export())
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9)
    print("loss after pre-training:", round(train(twin, optimizer, batch, options.steps), 3))

    # 3 binarise and fine-tune
    binary = binarize(twin)
    print("loss after fine-tuning:", round(train(binary, fine_tune_optimizer(binary), batch, options.steps), 3))
    with torch.no_grad():
        difference = (pack(binary)(batch[0]) - binary.eval()(batch[0])).abs().max()
    print(f"packed network: largest difference of an output {float(difference):.1e}")


if __name__ == "__main__":
    main()
