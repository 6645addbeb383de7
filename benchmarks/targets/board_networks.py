"""Networks as people write them for boards, that other networks here have nothing of: what they become was mended on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.device_networks import conv
from benchmarks.targets.found_networks import Forward, found
from benchmarks.targets.tflm_networks import Gate, Inverted
from nasopt import PIT


def broadcast_residual() -> nn.Module:
    """BC-ResNet: a mean over frequencies, a layer over time, broadcast back: `(B, 1, 40, 32) -> (B, 12)`."""

    def block(channels: int) -> nn.Module:
        def run(self: Any, x: Tensor) -> Tensor:
            y = self.frequency(x)
            return F.relu(x + y + self.point(self.time(y.mean(2, keepdim=True))))

        frequency = conv(channels, channels, (3, 1), groups=channels, act=nn.Identity)
        time = conv(channels, channels, (1, 3), groups=channels, act=nn.SiLU)
        return Forward(run, frequency=frequency, time=time, point=nn.Conv2d(channels, channels, 1))

    layers = [conv(1, 16, 5, (2, 1)), block(16), conv(16, 20, 1, (2, 1)), block(20)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 12))


def chomped() -> nn.Module:
    """The TCN of Bai et al., padded on both sides and cut at the end, norms behind the cut: `(B, 4, 80) -> (B, 3)`."""

    def block(given: int, made: int, dilation: int) -> nn.Module:
        def run(self: Any, x: Tensor) -> Tensor:
            y = F.relu(self.norm1(self.conv1(x)[:, :, : -2 * dilation]))
            y = F.relu(self.norm2(self.conv2(y)[:, :, : -2 * dilation]))
            return F.relu(y + self.skip(x))

        convs = {
            f"conv{i}": nn.Conv1d(n, made, 3, padding=2 * dilation, dilation=dilation)
            for i, n in ((1, given), (2, made))
        }
        norms = {f"norm{i}": nn.BatchNorm1d(made) for i in (1, 2)}
        return Forward(run, **convs, **norms, skip=nn.Conv1d(given, made, 1))

    layers = [block(4, 12, 1), block(12, 16, 2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 3)]
    return nn.Sequential(*layers)


def wavenet() -> nn.Module:
    """Gated dilated layers whose outputs are summed from 0: `(B, 8, 60) -> (B, 2, 60)`."""

    def run(self: Any, x: Tensor) -> Tensor:
        x, skip = self.stem(x), 0
        for i in range(3):
            padded = F.pad(x, (2**i, 0))
            y = getattr(self, f"out{i}")(
                torch.tanh(getattr(self, f"filter{i}")(padded)) * torch.sigmoid(getattr(self, f"gate{i}")(padded))
            )
            x, skip = x + y, skip + y
        return self.head(F.relu(skip))

    layers: dict[str, nn.Module] = {f"out{i}": nn.Conv1d(12, 12, 1) for i in range(3)}
    layers |= {f"{name}{i}": nn.Conv1d(12, 12, 2, dilation=2**i) for name in ("filter", "gate") for i in range(3)}
    return Forward(run, stem=nn.Conv1d(8, 12, 1), **layers, head=nn.Conv1d(12, 2, 1))


def wide_autoencoder() -> nn.Module:
    """Linear layers with norms, wider than all that is placed: `(B, 320) -> (B, 320)`."""
    layers: list[nn.Module] = []
    for given, made in ((320, 64), (64, 8), (8, 64)):
        layers += [nn.Linear(given, made), nn.BatchNorm1d(made), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 320))


def late_wide() -> nn.Module:
    """1 x 1 convolutions with many channels on a mean: `(B, 3, 16, 16) -> (B, 10)`."""
    layers = [conv(3, 8, 3, 2), conv(8, 8, 3, 2, 8), conv(8, 160, 1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(160, 320, 1)]
    return nn.Sequential(*layers, nn.Hardswish(), nn.Flatten(), nn.Linear(320, 10))


def output_padding() -> nn.Module:
    """The transposed convolutions that torch's examples have: `(B, 1, 32, 16) -> (B, 1, 32, 16)`."""
    layers = [conv(1, 8, 3, 2), conv(8, 16, 3, 2), nn.ConvTranspose2d(16, 8, 3, 2, 1, 1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(8, 1, 5, 2, 2, 1), nn.Sigmoid())


def series_decoder() -> nn.Module:
    """PReLU and transposed convolutions over time, with and without a cut: `(B, 2, 64) -> (B, 2, 64)`."""
    down = [nn.Conv1d(2, 8, 8, 4, 2), nn.PReLU(8), nn.Conv1d(8, 16, 4, 2, 1), nn.PReLU(16)]
    return nn.Sequential(*down, nn.ConvTranspose1d(16, 8, 3, 2, 1, 1), nn.PReLU(8), nn.ConvTranspose1d(8, 2, 8, 4, 2))


def flat_frames() -> nn.Module:
    """A vector that the network makes an image: `(B, 490) -> (B, 12)`."""
    layers = [nn.Unflatten(1, (1, 49, 10)), nn.Conv2d(1, 16, (10, 4), 2, (5, 2)), nn.ReLU(), conv(16, 24, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 12))


def rounded_up() -> nn.Module:
    """Means whose last windows end outside: `(B, 3, 31, 27) -> (B, 5)`."""
    layers = [conv(3, 12), nn.AvgPool2d(2, 2, ceil_mode=True), conv(12, 20), nn.AvgPool2d(3, 2, 1, ceil_mode=True)]
    return nn.Sequential(*layers, conv(20, 24), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5))


def groups_and_slopes() -> nn.Module:
    """Group norms, one of one group, before PReLU: `(B, 3, 24, 24) -> (B, 4)`."""
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.PReLU(16), nn.Conv2d(16, 24, 3, 2, 1)]
    tail = [nn.GroupNorm(1, 24), nn.PReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4)]
    return nn.Sequential(*layers, *tail)


def preactivated() -> nn.Module:
    """Residual blocks that begin with norms: `(B, 3, 28, 28) -> (B, 4)`."""

    def run(self: Any, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu(self.norm1(x))
        x = self.conv2(F.relu(self.norm2(self.conv1(y)))) + self.skip(y)
        return self.head(F.relu(self.norm3(x)).mean((2, 3)))

    convs = {"conv1": nn.Conv2d(12, 20, 3, 2, 1, bias=False), "conv2": nn.Conv2d(20, 20, 3, 1, 1, bias=False)}
    norms = {"norm1": nn.BatchNorm2d(12), "norm2": nn.BatchNorm2d(20), "norm3": nn.BatchNorm2d(20)}
    skip = nn.Conv2d(12, 20, 1, 2, bias=False)
    return Forward(run, stem=nn.Conv2d(3, 12, 3, padding=1), **convs, **norms, skip=skip, head=nn.Linear(20, 4))


def ghost() -> nn.Module:
    """Half of the channels from cheap layers, concatenated, a gate: `(B, 3, 32, 32) -> (B, 5)`."""

    def block(given: int, made: int) -> nn.Module:
        def run(self: Any, x: Tensor) -> Tensor:
            x = self.first(x)
            return torch.cat([x, self.cheap(x)], 1)

        return Forward(run, first=conv(given, made // 2, 1), cheap=conv(made // 2, made // 2, 3, groups=made // 2))

    layers = [conv(3, 16, 3, 2), block(16, 24), conv(24, 24, 3, 2, 24, nn.Identity), block(24, 32), Gate(32)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))


def padded_at_the_end() -> nn.Module:
    """Strides over images padded as TensorFlow pads them: `(B, 3, 40, 40) -> (B, 2)`."""

    def down(given: int, made: int, groups: int = 1) -> nn.Module:
        layers = [
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.Conv2d(given, made, 3, 2, groups=groups, bias=False),
            nn.BatchNorm2d(made),
        ]
        return nn.Sequential(*layers, nn.ReLU6())

    layers = [down(3, 8), conv(8, 24, 1), down(24, 24, 24), conv(24, 12, 1), Inverted(12, 12, 3, 1), conv(12, 32, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2))


def frequencies_as_channels() -> nn.Module:
    """Moved and joined dimensions between layers over images and over time: `(B, 1, 40, 50) -> (B, 4)`."""

    def run(self: Any, x: Tensor) -> Tensor:
        x = self.front(x).permute(0, 3, 1, 2).flatten(2).transpose(1, 2)  # (B, 120, 25)
        x = F.relu(self.second(F.relu(self.first(x))))
        return self.head(torch.cat([x.mean(2), x.max(2).values], 1))

    layers = {"first": nn.Conv1d(120, 24, 3, 2, 1), "second": nn.Conv1d(24, 24, 3, dilation=3, padding=3)}
    return Forward(run, front=conv(1, 6, 3, 2), **layers, head=nn.Linear(48, 4))


def scaled_series() -> nn.Module:
    """Samples before their channels, scaled by the network itself: `(B, 50, 4) -> (B, 3)`."""

    def run(self: Any, x: Tensor) -> Tensor:
        x = F.relu(self.first((x.transpose(1, 2) - 0.5) * 2))
        y = F.relu(self.second(x))
        weights = torch.softmax(self.look(y), -1)
        return self.head(((y - x / 3) * weights).sum(-1))

    layers = {
        "first": nn.Conv1d(4, 12, 5, 2, 2),
        "second": nn.Conv1d(12, 12, 3, padding=1),
        "look": nn.Conv1d(12, 1, 1),
    }
    return Forward(run, **layers, head=nn.Linear(12, 3))


def last_state() -> nn.Module:
    """An LSTM of which only the last state counts: `(B, 16, 5) -> (B, 3)`."""

    def run(self: Any, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[1][0][-1])

    return Forward(run, rnn=nn.LSTM(5, 8, batch_first=True), head=nn.Linear(8, 3))


SEEDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "broadcast_residual": (broadcast_residual, (1, 40, 32)),
    "chomped": (chomped, (4, 80)),
    "wavenet": (wavenet, (8, 60)),
    "wide_autoencoder": (wide_autoencoder, (320,)),
    "late_wide": (late_wide, (3, 16, 16)),
    "output_padding": (output_padding, (1, 32, 16)),
    "series_decoder": (series_decoder, (2, 64)),
    "flat_frames": (flat_frames, (490,)),
    "rounded_up": (rounded_up, (3, 31, 27)),
    "groups_and_slopes": (groups_and_slopes, (3, 24, 24)),
    "preactivated": (preactivated, (3, 28, 28)),
    "ghost": (ghost, (3, 32, 32)),
    "padded_at_the_end": (padded_at_the_end, (3, 40, 40)),
    "frequencies_as_channels": (frequencies_as_channels, (1, 40, 50)),
    "scaled_series": (scaled_series, (50, 4)),
    "last_state": (last_state, (16, 5)),
}

NETWORKS = {
    **{f"board {name}": seed for name, seed in SEEDS.items()},
    **{f"board pit {name}": (found(PIT, make, shape), shape) for name, (make, shape) in SEEDS.items()},
}
"""Name -> how it is built (as it is, or as a search of random architecture exports it), and the shape of one sample."""
