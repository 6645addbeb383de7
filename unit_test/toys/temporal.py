"""Toys with Conv1d: receptive field and dilation, for every kind of padding."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from toys.table import toy


def temporal(*layers: nn.Module, last: int = 5) -> nn.Module:
    """Layers, then time is flattened by its mean and classified."""
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(2 * last, 3))


class Causal(nn.Module):
    """A convolution that sees the past only."""

    def __init__(self, inputs: int, outputs: int, kernel: int, **kwargs: Any) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, **kwargs)
        self.reach = (kernel - 1) * self.conv.dilation[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (self.reach, 0)))


@toy("causal", (3, 20), channels=4 + 5)
def causal() -> nn.Module:
    return temporal(Causal(3, 4, 9), nn.BatchNorm1d(4), nn.ReLU(), Causal(4, 5, 5, dilation=2), nn.Hardsigmoid())


@toy("symmetric", (3, 20), channels=4 + 5)
def symmetric() -> nn.Module:
    convolutions = nn.Conv1d(3, 4, 9, padding=4), nn.Conv1d(4, 5, 5, padding=4, dilation=2)
    return temporal(convolutions[0], nn.BatchNorm1d(4), nn.Sigmoid(), convolutions[1])


@toy("strided_in_time", (3, 31), channels=4 + 5)
def strided_in_time() -> nn.Module:
    modes = {"padding_mode": "circular", "stride": 2}
    return temporal(nn.Conv1d(3, 4, 6, padding=3, stride=3), nn.GELU(), nn.Conv1d(4, 5, 4, padding=2, **modes))


@toy("depthwise_in_time", (3, 20), channels=4 + 5)
def depthwise_in_time() -> nn.Module:
    depthwise = nn.Conv1d(4, 4, 7, padding="same", groups=4)
    return temporal(nn.Conv1d(3, 4, 1), depthwise, nn.PReLU(4), nn.Conv1d(4, 5, 1), nn.InstanceNorm1d(5, affine=True))
