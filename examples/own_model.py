"""Tutorial 1 of 3: your own model in three lines.

    python -m examples.own_model            # scikit-learn's digits, about half a minute; needs pip install "nasopt[bench]"

You have a model and a training loop. Three lines turn the loop into a search: wrap the model, add what it costs to the loss,
take the smaller network out. The three are marked with numbers below; everything else is what you have anyway.

Next: `examples/own_target.py` pays in milliseconds of your own board, `examples/supernet_pit_int8.py` chooses between layers and
writes an int8 ONNX file.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import nasopt

Data = tuple[Tensor, Tensor]


class DigitNet(nn.Module):
    """Your model: an ordinary `nn.Module`. It has a residual sum, a concatenation and a pooling, and needs no marks for them."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = conv_norm_relu(1, width)
        self.body = nn.Sequential(conv_norm_relu(width, width), nn.Conv2d(width, width, 3, padding=1))
        self.wide = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:  # (B, 1, 8, 8) -> (B, 10)
        x = self.stem(x)
        x = F.max_pool2d(F.relu(x + self.body(x)), 2)  # (B, width, 4, 4)
        x = torch.cat([x, self.wide(x)], dim=1)  # (B, 2 width, 4, 4)
        return self.head(x.mean((2, 3)))


def conv_norm_relu(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def digits() -> tuple[Data, Data]:
    """1437 training images and 360 test images of 8 x 8, as `(images (N, 1, 8, 8), labels (N,))`."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:360], order[360:]
    return (images[train], labels[train]), (images[test], labels[test])


def train_epoch(
    model: nn.Module, data: Data, optimizer: torch.optim.Optimizer, penalty: Callable[[], Tensor] | None = None
) -> None:
    """Your training loop. A search adds a penalty to the loss, and that is all."""
    images, labels = data
    model.train()
    for batch in torch.randperm(len(labels)).split(64):
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        if penalty is not None:
            loss = loss + penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """Share of right answers on a split."""
    model.eval()
    return float((model(data[0]).argmax(1) == data[1]).float().mean())


def main(epochs: int = 10) -> nn.Module:
    """All steps, `epochs` each; returns the found network."""
    torch.manual_seed(0)
    training, test = digits()

    # Train the seed a little first: masks should part useful channels from useless ones, and untrained ones are all alike.
    seed = DigitNet()
    optimizer = torch.optim.Adam(seed.parameters(), lr=3e-3)
    for _ in range(epochs):
        train_epoch(seed, training, optimizer)
    print(f"seed: accuracy {accuracy(seed, test):.1%}\n")

    # 1 Wrap. The seed is copied, never changed. Costs count relative to the seed's, so a strength of 0.3 means: the whole cost
    # of the seed is worth 0.3 units of loss. `print` tells what can be searched; `model.explain()` why something cannot.
    model = nasopt.PIT(seed, input_shape=(1, 8, 8), regularizer="macs", relative=True)
    print(f"{model}\n")

    # 2 Price. Architecture parameters get a larger learning rate and no weight decay: `param_groups` does that. A larger strength
    # gives a smaller network. Accuracy shakes while channels come and go; what counts comes after the export.
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-3, arch_lr=1e-2))
    for epoch in range(epochs):
        train_epoch(model, training, optimizer, lambda: 0.3 * model.get_regularization_loss())
        macs = model.get_cost("macs", discrete=True)  # exact: what export would give now
        print(f"search {epoch + 1}/{epochs}: {macs:9,} MAC, accuracy {accuracy(model, test):.1%}")

    # 3 Take. Plain torch layers under the names that you gave them, trained weights included; outputs were compared.
    found = model.arch_export()
    print(f"\nfound: {found.get_submodule('body.0.0')} in the place of {seed.body[0][0]}")

    # Train the found network on: it is smaller and faster, and its norms have seen the channels that are gone.
    optimizer = torch.optim.Adam(found.parameters(), lr=1e-3)
    for _ in range(epochs):
        train_epoch(found, training, optimizer)
    before, after = (sum(p.numel() for p in network.parameters()) for network in (seed, found))
    print(f"found: {after:,} parameters instead of {before:,}, accuracy {accuracy(found, test):.1%}\n")

    # Keep the result without pickle: the structure is JSON, the weights are a state dict, and your class makes the rest.
    with tempfile.TemporaryDirectory() as folder:
        structure, weights = Path(folder, "structure.json"), Path(folder, "weights.pt")
        structure.write_text(json.dumps(model.arch_structure()))
        torch.save(found.state_dict(), weights)
        again = nasopt.restore(DigitNet(), json.loads(structure.read_text()))
        again.load_state_dict(torch.load(weights))
    assert accuracy(again, test) == accuracy(found, test)
    return copy.deepcopy(again)


if __name__ == "__main__":
    main()
