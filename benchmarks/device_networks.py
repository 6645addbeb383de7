"""Small networks of unusual sorts, as people bring them to a microcontroller: what exporters and arenas are tried on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(inputs: int, outputs: int, kernel: Any = 3, stride: Any = 1, groups: int = 1, act: Any = nn.ReLU) -> nn.Module:
    """Convolution padded by half of its kernel, norm, activation."""
    pad = tuple(k // 2 for k in kernel) if isinstance(kernel, tuple) else kernel // 2
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, pad, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        act(),
    ]
    return nn.Sequential(*layers)


class Causal(nn.Module):
    """A causal TCN of three dilations with residual sums: `(B, 6, 75) -> (B, 5)`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(6, 16, 1)
        self.convs = nn.ModuleList(nn.Conv1d(16, 16, 3, dilation=d) for d in (1, 2, 4))
        self.norms = nn.ModuleList(nn.BatchNorm1d(16) for _ in range(3))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer, norm in zip(self.convs, self.norms):
            x = x + F.relu(norm(layer(F.pad(x, (2 * layer.dilation[0], 0)))))
        return self.head(x[:, :, -1])


class Recurrent(nn.Module):
    """Convolutions and a GRU or LSTM: `(B, 1, 20, 8) -> (B, 4)`."""

    def __init__(self, kind: Callable[..., nn.Module] = nn.GRU) -> None:
        super().__init__()
        self.conv = conv(1, 8, 3)
        self.rnn = kind(8 * 8, 12, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).permute(0, 2, 1, 3).flatten(2)
        return self.head(self.rnn(x)[0][:, -1])


class Multiplier(nn.Module):
    """Depthwise layers that make two and three channels of each: `(B, 3, 31, 17) -> (B, 6)`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(3, 8, 3, 2), nn.Conv2d(8, 16, 3, padding=1, groups=8), nn.ReLU(), conv(16, 12, 1),
            nn.Conv2d(12, 36, 5, 2, 2, groups=12), nn.ReLU6(), conv(36, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(16, 6),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Squeeze(nn.Module):
    """MobileNetV3's block: hard-swish, squeeze and excite with a hard sigmoid: `(B, 3, 48, 40) -> (B, 7)`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 12, 3, 2, act=nn.Hardswish)
        self.expand, self.depth = conv(12, 36, 1, act=nn.Hardswish), conv(36, 36, 5, groups=36, act=nn.Hardswish)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(36, 9, 1), nn.ReLU(), nn.Conv2d(9, 36, 1), nn.Hardsigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(36, 12, 1, bias=False), nn.BatchNorm2d(12))
        self.head = nn.Sequential(nn.Linear(12, 20), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(20, 7))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depth(self.expand(x))
        x = x + self.project(y * self.gate(y))
        return self.head(x.mean([2, 3]))


class Dense(nn.Module):
    """Concatenated features of three sizes: `(B, 2, 19, 23) -> (B, 3)`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(2, 8), conv(10, 6, 5), conv(16, 10, 1)
        self.down = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.head = nn.Conv2d(26, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.a(x)], 1)
        x = torch.cat([x, self.b(x)], 1)
        x = self.down(torch.cat([x, self.c(x)], dim=1))
        return self.head(x).mean(-1).mean(-1)


class UNet(nn.Module):
    """Down, up by a factor, skip, one map: `(B, 1, 24, 32) -> (B, 2, 24, 32)`."""

    def __init__(self, mode: str = "nearest") -> None:
        super().__init__()
        self.mode = mode
        self.one, self.two, self.three = conv(1, 8), conv(8, 16, 3, 2), conv(24, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        y = F.interpolate(self.two(x), scale_factor=2, mode=self.mode)
        return self.head(self.three(torch.cat([x, y], 1)))


class Transposed(nn.Module):
    """An image auto-encoder with a transposed convolution: `(B, 1, 16, 16) -> (B, 1, 16, 16)`."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(conv(1, 8, 3, 2), conv(8, 12, 3))
        self.up = nn.Sequential(nn.ConvTranspose2d(12, 8, 2, 2), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.up(self.down(x)))


class TwoInputs(nn.Module):
    """A spectrogram and six numbers: `(B, 1, 20, 10), (B, 6) -> (B, 4)`."""

    def __init__(self) -> None:
        super().__init__()
        self.sound = nn.Sequential(conv(1, 8), nn.MaxPool2d(2), conv(8, 12), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.motion = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.head = nn.Linear(20, 4)

    def forward(self, sound: Tensor, motion: Tensor) -> Tensor:
        return self.head(torch.cat([self.sound(sound), self.motion(motion)], 1))


class TwoOutputs(nn.Module):
    """Class and box: `(B, 3, 40, 40) -> {"scores": (B, 3), "box": (B, 4)}`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 8, 3, 2), conv(8, 16, 3, 2), conv(16, 16))
        self.scores, self.box = nn.Linear(16, 3), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.body(x)
        pooled = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return {"scores": self.scores(pooled), "box": torch.sigmoid(self.box(x)).amax(dim=(2, 3))}


class Flattened(nn.Module):
    """A flatten of the size it finds, over odd sizes: `(B, 1, 33, 13) -> (B, 8)`."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 6, 5, 2), nn.Conv2d(6, 9, 3, (2, 1))
        self.head = nn.Linear(9 * 7 * 3, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.two(F.relu(self.one(x))))
        return F.log_softmax(self.head(x.view(x.size(0), -1)), dim=1)


class Slopes(nn.Module):
    """PReLU, LeakyReLU, ELU, tanh: `(B, 1, 21, 21) -> (B, 4)`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(1, 6, act=lambda: nn.PReLU(6)), conv(6, 8, 3, 2, act=nn.PReLU), conv(8, 8, act=lambda: nn.LeakyReLU(0.1)),
            conv(8, 10, 3, 2, act=nn.ELU), conv(10, 6, act=nn.Tanh), nn.Flatten(), nn.Linear(6 * 6 * 6, 4),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Tokens(nn.Module):
    """Frames as tokens, layer norms, a mixer over time: `(B, 16, 10) -> (B, 4)`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(10, 16)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.time = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16))
        self.width = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.time(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.width(self.norm2(x))
        return self.head(x.mean(1))


class Attention(nn.Module):
    """One head of attention over frames, by hand: `(B, 12, 8) -> (B, 3)`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.q, self.k, self.v = nn.Linear(8, 12), nn.Linear(12, 6), nn.Linear(12, 6), nn.Linear(12, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.embed(x))
        weights = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) / 6**0.5, -1)
        return self.head((x + weights @ self.v(x)).mean(1))


class Volume(nn.Module):
    """Three-dimensional convolutions: `(B, 1, 6, 12, 12) -> (B, 3)`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(6, 8, 3), nn.ReLU()
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3, 4)))


class Strips(nn.Module):
    """Kernels, strides and dilations that differ by side: `(B, 1, 50, 13) -> (B, 6)`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(1, 8, (10, 4), (2, 1)), conv(8, 8, (1, 7)), conv(8, 12, (7, 1), (2, 2)),
            nn.Conv2d(12, 12, 3, padding=(2, 1), dilation=(2, 1)), nn.ReLU(), nn.AvgPool2d((2, 1)), nn.Flatten(),
            nn.LazyLinear(6),
        )  # fmt: skip
        self.layers(torch.zeros(2, 1, 50, 13))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class GatedLinear(nn.Module):
    """A WaveNet step: GLU over halves of the channels, `(B, 4, 60) -> (B, 3)`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.step, self.skip = (
            nn.Conv1d(4, 12, 3, padding=1),
            nn.Conv1d(12, 24, 3, padding=2, dilation=2),
            nn.Conv1d(12, 12, 1),
        )
        self.pool, self.head = nn.AvgPool1d(4), nn.Linear(12 * 15, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        a, b = self.step(x).chunk(2, dim=1)
        x = x + self.skip(torch.tanh(a) * torch.sigmoid(b))
        return self.head(self.pool(x).flatten(1))


class Shuffle(nn.Module):
    """Grouped convolutions and a shuffle of channels: `(B, 3, 32, 32) -> (B, 5)`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 12, 3, 2)
        self.one, self.depth, self.two = (
            conv(12, 12, 1, groups=2),
            conv(12, 12, 3, groups=12),
            conv(12, 12, 1, groups=2),
        )
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.one(x)
        b, c, h, w = y.shape
        y = y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        x = x + self.two(self.depth(y))
        return self.head(x.mean((2, 3)))


class Statistics(nn.Module):
    """Normalisation inside, mean and standard deviation over time as features: `(B, 3, 64) -> (B, 4)`."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1))
        self.layers = nn.Sequential(nn.Conv1d(3, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2))
        self.last = nn.Conv1d(8, 12, 4, stride=3, padding="valid")
        self.head = nn.Linear(36, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.layers((x - self.offset) * 2.0))
        mean = x.mean(2)
        spread = torch.sqrt(((x - mean.unsqueeze(2)) ** 2).mean(2) + 1e-3)
        return self.head(torch.cat([mean, spread, x.amax(2)], 1))


class Separable1d(nn.Module):
    """Depthwise-separable layers in one dimension, even kernels, "same": `(B, 10, 49) -> (B, 12)`."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in ((10, 16, 4), (16, 16, 7), (16, 24, 9)):
            layers += [nn.Conv1d(inputs, inputs, kernel, padding="same", groups=inputs), nn.Conv1d(inputs, outputs, 1)]
            layers += [nn.BatchNorm1d(outputs), nn.ReLU()]
        self.layers, self.head = nn.Sequential(*layers), nn.Conv1d(24, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool1d(self.head(self.layers(x)), 1).squeeze(-1)


class Subpixel(nn.Module):
    """Super-resolution by a pixel shuffle, the input added: `(B, 1, 12, 12) -> (B, 1, 24, 24)`."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.shuffle = conv(1, 8), nn.Conv2d(8, 4, 3, padding=1), nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.two(self.one(x))).clamp(-1, 1)


class Norms(nn.Module):
    """A norm before everything, group and instance norms: `(B, 2, 20, 20) -> (B, 3)`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.group = nn.BatchNorm2d(2), nn.Conv2d(2, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.two, self.last, self.head = nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.group(self.one(self.first(x))))
        return self.head(F.relu(self.last(F.relu(self.two(x)))).mean((2, 3)))


class Pools(nn.Module):
    """Poolings with padding, without it, over all: `(B, 1, 27, 21) -> (B, 3)`."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv(1, 8), conv(8, 8)
        self.max, self.mean = nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.max(self.one(x))
        x = self.mean(self.two(x))
        return self.head(torch.cat([F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)], 1).flatten(1))


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[Any, ...]]] = {
    "causal_tcn": (Causal, (6, 75)),
    "gru": (Recurrent, (1, 20, 8)),
    "lstm": (lambda: Recurrent(nn.LSTM), (1, 20, 8)),
    "multiplier": (Multiplier, (3, 31, 17)),
    "squeeze": (Squeeze, (3, 48, 40)),
    "dense": (Dense, (2, 19, 23)),
    "unet": (UNet, (1, 24, 32)),
    "unet_bilinear": (lambda: UNet("bilinear"), (1, 24, 32)),
    "transposed": (Transposed, (1, 16, 16)),
    "two_inputs": (TwoInputs, ((1, 20, 10), (6,))),
    "two_outputs": (TwoOutputs, (3, 40, 40)),
    "flattened": (Flattened, (1, 33, 13)),
    "slopes": (Slopes, (1, 21, 21)),
    "tokens": (Tokens, (16, 10)),
    "attention": (Attention, (12, 8)),
    "volume": (Volume, (1, 6, 12, 12)),
    "strips": (Strips, (1, 50, 13)),
    "gated_linear": (GatedLinear, (4, 60)),
    "shuffle": (Shuffle, (3, 32, 32)),
    "statistics": (Statistics, (3, 64)),
    "separable_1d": (Separable1d, (10, 49)),
    "subpixel": (Subpixel, (1, 12, 12)),
    "norms": (Norms, (2, 20, 20)),
    "pools": (Pools, (1, 27, 21)),
}
"""Name -> how it is built, and the shape of one sample (of each input)."""
