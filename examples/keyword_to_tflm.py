"""Deployment: from a keyword network to a program for TensorFlow Lite for Microcontrollers, inside an arena of 64 KB.

    python -m examples.keyword_to_tflm            # under three minutes; needs pip install "nasopt[bench,litert]"

The seed hears keywords well and does not fit: its arena would take 76,903 B. Four steps: train it, search with a limit on
it, fine-tune, write the file. The file has run in the real interpreter before it gets its name, so its number is no estimate.
Before: `examples/own_model.py` shows the three lines of a search.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.export_int8 import real_or_embedded
from benchmarks_mlperf_tiny.tasks import get_task
from nasopt import PIT, Budget, PhaseSchedule
from nasopt.cost import network_cost
from nasopt.export import ExportReport, to_tflite

SHAPE = (1, 49, 10)  # 49 frames of 10 mel cepstra: one second of sound
ARENA = 64 * 1024
Batches = list[tuple[Tensor, Tensor]]


def conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Sequential:
    """Convolution, norm, ReLU."""
    layers = [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(outputs), nn.ReLU())


class KeywordNet(nn.Module):
    """Two residual blocks and a gate: `(B, 1, 49, 10) -> (B, classes)`."""

    def __init__(self, classes: int = 12, width: int = 48) -> None:
        super().__init__()
        self.stem = conv(1, width, 3)
        self.block1 = nn.Sequential(conv(width, width, 3, groups=width), conv(width, width, 1))
        self.block2 = nn.Sequential(conv(width, width, 3, groups=width), conv(width, width, 1))
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 16, 1), nn.ReLU(), nn.Conv2d(16, width, 1), nn.Sigmoid()
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the words."""
        x = self.stem(x)  # (B, width, 49, 10)
        x = F.max_pool2d(x + self.block1(x), 2)  # (B, width, 24, 5)
        x = x + self.block2(x)
        return self.head((x * self.gate(x)).mean((2, 3)))


def words() -> tuple[Batches, Batches, int]:
    """`(training batches, test batches, classes)`. Real recordings where `NASOPT_DATA` has them, else made ones."""
    task = get_task("kws")
    data = task.dataset(real_or_embedded(task)).load(DataOptions(None))
    shuffled = data.train.shuffled(32, torch.Generator().manual_seed(0))
    train, test = (
        [(x if data.prepare is None else data.prepare(x), y) for x, y in part]
        for part in (shuffled, data.test.batches(100))
    )
    return train, test, data.num_classes


def train_epoch(model: nn.Module, batches: Batches, optimizer: torch.optim.Optimizer, penalty: Any = None) -> None:
    """Your training loop; a search adds a penalty to the loss."""
    model.train()
    for i in torch.randperm(len(batches)).tolist():
        x, y = batches[i]
        loss = F.cross_entropy(model(x), y)
        if penalty is not None:
            loss = loss + penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def accuracy(model: nn.Module, batches: Batches) -> float:
    """Share of right answers."""
    model.eval()
    with torch.no_grad():
        return sum(int((model(x).argmax(1) == y).sum()) for x, y in batches) / sum(len(y) for _, y in batches)


def main(arguments: list[str] | None = None) -> ExportReport:
    """All four steps; returns the report of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="keyword.tflite", help="file to write; the C++ program goes beside it")
    parser.add_argument("--epochs", type=int, default=4, help="of each training")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    batches, test, classes = words()

    # 1 Train the seed.
    seed = KeywordNet(classes)
    optimizer = torch.optim.Adam(seed.parameters(), lr=3e-3)
    for _ in range(options.epochs):
        train_epoch(seed, batches, optimizer)
    print(f"seed: accuracy {accuracy(seed, test):.1%}, {network_cost(seed, 'memory:tflm', SHAPE):,} B of arena\n")

    # 2 Search. The limit is on the arena of the interpreter: tensors as it places them, and the data that it keeps beside them.
    limit = Budget(memory=("tflm", ARENA), steps=options.epochs * len(batches))
    model = PIT(seed, SHAPE, regularizer=limit)
    phases = PhaseSchedule(model, search=options.epochs)
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-3, arch_lr=1e-2))
    for _ in range(phases.epochs):
        train_epoch(model, batches, optimizer, phases.get_regularization_loss)
        phases.step()
    print(model)
    found = model.arch_export()

    # 3 Fine-tune what was found: a plain PyTorch network.
    optimizer = torch.optim.Adam(found.parameters(), lr=1e-3)
    for _ in range(options.epochs):
        train_epoch(found, batches, optimizer)
    print(f"\nfound: accuracy {accuracy(found, test):.1%}, {network_cost(found, 'memory:tflm', SHAPE):,} B of arena\n")

    # 4 Write. Ranges of the activations come from training recordings. The file runs in LiteRT and in TFLM's own interpreter, on
    # every test recording, and only then gets its name.
    report = to_tflite(found, options.out, batches, test, targets=["cortex_m4"], max_batches=16, c_array=True)
    print(report)
    assert report.device is not None
    assert report.device.arena is not None
    needed = report.device.arena.needed
    print(f"\n{needed:,} B of {ARENA:,} B: {'it fits' if needed <= ARENA else 'it does not fit, lower the limit'}.")
    main_file = report.device.files[-1]
    print(f"Next: add {main_file.name} and {main_file.name.replace('_main', '_model')} to a TFLM project and flash it.")
    return report


if __name__ == "__main__":
    main()
