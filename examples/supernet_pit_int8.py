"""Tutorial 3 of 3: from a seed to an int8 file. First which layers (SuperNet), then how many channels (PIT), then int8 ONNX.

    python -m examples.supernet_pit_int8    # scikit-learn's digits; needs pip install "nasopt[bench,onnx]"

Before: `examples/own_model.py` puts a search into a training loop, `examples/own_target.py` pays in milliseconds of a board.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt import PIT, SuperNet, with_candidates
from nasopt.cost import network_cost
from nasopt.export import ExportReport, to_int8_onnx

SHAPE = (1, 8, 8)
TARGET = "cortex_m4"
Batches = list[tuple[Tensor, Tensor]]


def seed() -> nn.Module:
    """An ordinary small network: (B, 1, 8, 8) -> (B, 10)."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * 32, 10))


def digits() -> tuple[Batches, Batches]:
    """Batches of 64 to train on, and of the 360 images that no training sees; values in 0..1."""
    bunch: Any = load_digits()
    x = torch.tensor(bunch.images[:, None] / 16, dtype=torch.float32)  # (1797, 1, 8, 8)
    y = torch.tensor(bunch.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = ([(x[i], y[i]) for i in part.split(64)] for part in (order[360:], order[:360]))
    return train, test


def train(model: nn.Module, groups: Any, batches: Batches, epochs: int, strength: float = 0.0) -> None:
    """Adam; where the model is a search model, its cost joins the loss."""
    optimizer = torch.optim.Adam(groups)
    model.train()
    for _ in range(epochs):
        for x, y in batches:
            loss = F.cross_entropy(model(x), y)
            if strength:
                loss = loss + strength * model.get_regularization_loss()  # type: ignore[operator]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main(arguments: list[str] | None = None) -> ExportReport:
    """Search, search, export; returns the report of the int8 file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="found-int8.onnx", help="int8 file to write")
    parser.add_argument("--epochs", type=int, default=8, help="of each of the three trainings")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    batches, test = digits()

    # 1 Which layers? Beside every convolution stand another kernel, a separable one, and nothing at all where that fits.
    choice = SuperNet(with_candidates(seed(), SHAPE), SHAPE, regularizer="macs", relative=True)
    train(choice, choice.param_groups(lr=2e-3, arch_lr=2e-2), batches, options.epochs, strength=0.3)
    print(choice)
    layers = choice.arch_export()

    # 2 How many channels? The network that was found is the seed of the next search, and brings its weights along.
    masks = PIT(layers, SHAPE, regularizer=f"latency:{TARGET}", relative=True)
    train(masks, masks.param_groups(lr=2e-3, arch_lr=1e-2), batches, options.epochs, strength=0.3)
    print(masks)
    found = masks.arch_export()
    train(found, found.parameters(), batches, options.epochs)

    # 3 int8. The ranges of activations come from 512 training images; network and files are judged on the test images.
    report = to_int8_onnx(found, options.out, batches, max_batches=8, data=test, targets=[TARGET])
    print(report)
    print(f"The seed would take {network_cost(seed(), f'latency_ms:{TARGET}', SHAPE):.3f} ms on {TARGET}.")
    return report


if __name__ == "__main__":
    main()
