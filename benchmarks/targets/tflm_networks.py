"""Networks whose arena in TensorFlow Lite Micro was measured: the four tasks', a keyword network, and small ones of all sorts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks_mlperf_tiny.networks import ds_cnn, mobilenet_v1, resnet8


class Gate(nn.Module):
    """Squeeze and excite: channels times the sigmoid of two layers on their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels // 4, 1)
        self.up = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Input and output (n, c, h, w)."""
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Residual(nn.Module):
    """Two 3x3 convolutions and a sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Input and output (n, c, h, w)."""
        return torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))


class KeywordNet(nn.Module):
    """Two residual blocks and a gate on a spectrogram."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.Sequential(Residual(channels), Residual(channels), Gate(channels))
        self.head = nn.Linear(channels, 12)

    def forward(self, x: Tensor) -> Tensor:
        """Input (n, 1, h, w), output (n, 12)."""
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


class Inverted(nn.Module):
    """The block of MobileNetV2."""

    def __init__(self, given: int, made: int, factor: int, stride: int) -> None:
        super().__init__()
        inner = given * factor
        self.adds = given == made and stride == 1
        self.layers = nn.Sequential(
            nn.Conv2d(given, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, made, 1, bias=False),
            nn.BatchNorm2d(made),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Input (n, given, h, w), output (n, made, h, w) at the stride."""
        return x + self.layers(x) if self.adds else self.layers(x)


class Concatenating(nn.Module):
    """A convolution beside its own input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Input (n, 3, h, w), output (n, 4)."""
        x = torch.relu(self.conv1(x))
        x = torch.relu(self.conv3(torch.cat([x, torch.relu(self.conv2(x))], 1)))
        return self.head(x.mean((2, 3)))


class Pooling(nn.Module):
    """A padded pooling, strides over odd sizes, and a product of two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.conv2 = nn.Conv2d(16, 24, 3, 2, 1)
        self.conv3 = nn.Conv2d(24, 24, 3, padding=1)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Input (n, 3, h, w), output (n, 4)."""
        x = self.pool(torch.relu(self.norm(self.conv1(x))))
        x = torch.relu(self.conv2(x))
        return self.head((x * torch.sigmoid(torch.relu(self.conv3(x)))).mean((2, 3)))


def mobilenet_v2() -> nn.Module:
    """Five inverted blocks."""
    blocks = [Inverted(8, 8, 1, 1), Inverted(8, 16, 6, 2), Inverted(16, 16, 6, 1), Inverted(16, 24, 6, 2)]
    stem = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()]
    return nn.Sequential(
        *stem, *blocks, Inverted(24, 24, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)
    )


def plain(channels: tuple[int, ...], pool: bool) -> nn.Module:
    """3x3 convolutions one after the other."""
    layers: list[nn.Module] = []
    for given, made in zip((3, *channels), channels):
        layers += [nn.Conv2d(given, made, 3, padding=1), nn.ReLU(), *([nn.MaxPool2d(2)] if pool else [])]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 10))


def strided(channels: tuple[int, ...] = (8, 16, 32), size: int = 32) -> nn.Module:
    """3x3 convolutions with stride 2 and torch's padding, flattened at the end."""
    layers: list[nn.Module] = []
    for given, made in zip((3, *channels), channels):
        layers += [nn.Conv2d(given, made, 3, 2, 1), nn.BatchNorm2d(made), nn.ReLU()]
    rest = size // 2 ** len(channels)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * rest**2, 10))


def perceptron() -> nn.Module:
    """Three linear layers."""
    return nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def padded() -> nn.Module:
    """Padding as a layer, as an argument, and none."""
    layers = [nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.ZeroPad2d(1), nn.Conv2d(8, 16, 3), nn.ReLU()]
    tail = [nn.Conv2d(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)]
    return nn.Sequential(*layers, *tail)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "kws": (ds_cnn, (1, 49, 10)),
    "ic": (resnet8, (3, 32, 32)),
    "ic_w8": (partial(resnet8, width=8), (3, 32, 32)),
    "ic_w11": (partial(resnet8, width=11), (3, 32, 32)),
    "vww": (mobilenet_v1, (3, 96, 96)),
    "user": (KeywordNet, (1, 49, 10)),
    "user32": (partial(KeywordNet, 32), (1, 40, 20)),
    "mbv2": (mobilenet_v2, (3, 64, 64)),
    "plain": (partial(plain, (16, 32, 64), True), (3, 32, 32)),
    "plain2": (partial(plain, (10, 20, 30), False), (3, 16, 16)),
    "strided": (strided, (3, 32, 32)),
    "cat": (Concatenating, (3, 24, 24)),
    "tail": (Pooling, (3, 33, 33)),
    "padded": (padded, (3, 24, 24)),
    "mlp": (perceptron, (256,)),
}
"""Name -> how it is built, and the shape of one sample."""
