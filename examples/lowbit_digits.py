"""What the low-bit examples share: scikit-learn's digits, a small network, its training, and tables of means."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHAPE = (1, 8, 8)
Data = tuple[Tensor, Tensor]
Act = Callable[[], nn.Module]


def digits() -> tuple[Data, Data]:
    """Training and test images `(N, 1, 8, 8)` and classes: 1,197 and 600."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(bunch.images).float()[order].unsqueeze(1) / 8 - 1
    y = torch.from_numpy(bunch.target)[order]
    return (x[600:], y[600:]), (x[:600], y[:600])


def network(width: int = 12, act: Act = nn.ReLU) -> nn.Sequential:
    """Four 3x3 convolutions with norms, a mean and a classifier; `act()` behind all norms but the last one."""
    layers: list[nn.Module] = []
    inputs = 1
    for index, (outputs, stride) in enumerate(((width, 1), (2 * width, 2), (2 * width, 1), (2 * width, 1))):
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), act() if index < 3 else nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def batches(data: Data, size: int = 64) -> Iterator[Data]:
    """One epoch in random order, shifted by up to one pixel, the incomplete last batch left out."""
    x, y = data
    for index in torch.randperm(len(x)).split(size):
        if len(index) == size:
            dy, dx = (int(i) for i in torch.randint(-1, 2, (2,)))
            yield x[index].roll((dy, dx), (2, 3)), y[index]


def train(
    model: nn.Module,
    data: Data,
    epochs: int,
    lr: float = 3e-3,
    *,
    loss: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda out, _x, y: F.cross_entropy(out, y),
    penalty: Callable[[], Tensor] | None = None,
    optimizer: Any = None,
    on_epoch: Callable[[int], Any] | None = None,
) -> nn.Module:
    """Adam with a cosine; `loss(outputs, inputs, labels)`."""
    own = optimizer or torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        getattr(own, "optimizer", own), lambda epoch: (1 + math.cos(math.pi * epoch / epochs)) / 2
    )
    for epoch in range(epochs):
        model.train()
        if on_epoch is not None:
            on_epoch(epoch)
        for x, y in batches(data):
            own.zero_grad()
            value = loss(model(x), x, y)
            (value if penalty is None else value + penalty()).backward()
            own.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """In per cent, in eval mode."""
    return 100 * float((model.eval()(data[0]).argmax(1) == data[1]).float().mean())


def mean_error(values: Sequence[float]) -> str:
    """`97.3 ± 0.2`: mean and standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {error:.1f}"


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """As a table of Markdown."""
    print("| " + " | ".join(head) + " |\n| --- " + "| ---: " * (len(head) - 1) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
