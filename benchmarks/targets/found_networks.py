"""Networks that searches of random architecture find in seeds of many kinds: arenas were predicted before they were measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import device_networks
from benchmarks.device_networks import conv
from benchmarks.targets.tflm_networks import Gate, Inverted, Residual
from benchmarks.torchvision_models import load_torchvision
from benchmarks_mlperf_tiny.networks import autoencoder, resnet8, tcn, wake_word_cnn
from benchmarks_mlperf_tiny.tasks import TASKS
from nasopt import PIT, PITSuperNet, SuperNet


class Forward(nn.Module):
    """Layers and the function that calls them."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = function

    def forward(self, *x: Tensor) -> Tensor:
        return self.function(self, *x)


def attention_keywords() -> nn.Module:
    """Convolutions over a spectrogram, attention over its frames: `(B, 1, 40, 16) -> (B, 12)`."""

    def run(self: Any, x: Tensor) -> Tensor:
        x = self.front(x).mean(3).transpose(1, 2)  # (B, 20, 24)
        scores = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2) * 0.25, -1)
        x = self.norm(x + self.out(scores @ self.value(x)))
        return self.head(x.mean(1))

    front = nn.Sequential(conv(1, 16, 5, 2), conv(16, 24))
    layers = {name: nn.Linear(24, 16) for name in ("query", "key")}
    return Forward(
        run,
        front=front,
        **layers,
        value=nn.Linear(24, 24),
        out=nn.Linear(24, 24),
        norm=nn.LayerNorm(24),
        head=nn.Linear(24, 12),
    )


def gated_images() -> nn.Module:
    """Squeeze and excite with linear layers: `(B, 3, 40, 40) -> (B, 8)`."""

    def run(self: Any, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        x = self.next(x * gate.view(x.shape[0], -1, 1, 1))
        return self.head(self.gate(x).mean((2, 3)))

    layers = {"stem": conv(3, 16, 3, 2), "down": nn.Linear(16, 8), "up": nn.Linear(8, 16), "next": conv(16, 24, 3, 2)}
    return Forward(run, **layers, gate=Gate(24), head=nn.Linear(24, 8))


def segmentation() -> nn.Module:
    """A U-Net of three levels with transposed convolutions: `(B, 1, 32, 48) -> (B, 3, 32, 48)`."""

    def run(self: Any, x: Tensor) -> Tensor:
        a = self.one(x)
        b = self.two(F.max_pool2d(a, 2))
        c = self.three(F.max_pool2d(b, 2))
        b = self.four(torch.cat([b, self.up1(c)], 1))
        return self.head(self.five(torch.cat([a, self.up2(b)], 1)))

    layers = {"one": conv(1, 8), "two": conv(8, 16), "three": conv(16, 24), "four": conv(32, 16), "five": conv(16, 8)}
    ups = {"up1": nn.ConvTranspose2d(24, 16, 2, 2), "up2": nn.ConvTranspose2d(16, 8, 2, 2)}
    return Forward(run, **layers, **ups, head=nn.Conv2d(8, 3, 1))


def temporal() -> nn.Module:
    """A TCN with strides, pools and residual sums of other widths: `(B, 9, 128) -> (B, 6)`."""

    def run(self: Any, x: Tensor) -> Tensor:
        x = F.relu(self.one(x))
        x = F.relu(self.skip(x) + self.three(F.relu(self.two(x))))
        x = F.max_pool1d(x, 2)
        return self.head(F.relu(self.four(F.pad(x, (8, 0)))).mean(2))

    layers = {
        "one": nn.Conv1d(9, 24, 5, 2, 2), "two": nn.Conv1d(24, 32, 3, padding=2, dilation=2),
        "three": nn.Conv1d(32, 32, 3, padding=1), "skip": nn.Conv1d(24, 32, 1), "four": nn.Conv1d(32, 40, 3, dilation=4),
    }  # fmt: skip
    return Forward(run, **layers, head=nn.Linear(40, 6))


def wide_separable() -> nn.Module:
    """Depthwise layers that multiply channels, 5x5 kernels, no padding at the start: `(B, 3, 50, 38) -> (B, 10)`."""
    layers = [
        conv(3, 16, 4, 2), nn.Conv2d(16, 32, 5, padding=2, groups=16), nn.ReLU6(), conv(32, 24, 1), conv(24, 24, 3, 2, 24),
        conv(24, 48, 1), nn.Conv2d(48, 48, 5, 2, groups=48), nn.BatchNorm2d(48), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(48, 10),
    ]  # fmt: skip
    return nn.Sequential(*layers)


def recurrent_keywords() -> nn.Module:
    """A convolution and an LSTM whose last output counts: `(B, 1, 24, 10) -> (B, 5)`."""

    def run(self: Any, x: Tensor) -> Tensor:
        x = self.conv(x).permute(0, 2, 1, 3).flatten(2)  # (B, 12, 8 * 5)
        return self.head(self.rnn(x)[0][:, -1])

    return Forward(run, conv=conv(1, 8, 3, 2), rnn=nn.LSTM(40, 16, batch_first=True), head=nn.Linear(16, 5))


def mobile_v3() -> nn.Module:
    """Inverted blocks with hard swish and gates: `(B, 3, 64, 48) -> (B, 12)`."""

    def block(given: int, inner: int, made: int, kernel: int, stride: int) -> nn.Module:
        layers = [
            conv(given, inner, 1, act=nn.Hardswish),
            conv(inner, inner, kernel, stride, inner, nn.Hardswish),
            Gate(inner),
        ]
        return nn.Sequential(*layers, nn.Conv2d(inner, made, 1, bias=False), nn.BatchNorm2d(made))

    def run(self: Any, x: Tensor) -> Tensor:
        x = self.two(self.one(self.stem(x)))
        x = x + self.three(x)
        return self.head(F.hardswish(self.last(x)).mean((2, 3)))

    blocks = {"one": block(12, 24, 16, 3, 2), "two": block(16, 48, 24, 5, 2), "three": block(24, 72, 24, 3, 1)}
    return Forward(
        run, stem=conv(3, 12, 3, 2, act=nn.Hardswish), **blocks, last=nn.Conv2d(24, 48, 1), head=nn.Linear(48, 12)
    )


def dense_blocks() -> nn.Module:
    """Two dense blocks of pre-activated layers, a transition with an average pool: `(B, 3, 24, 24) -> (B, 10)`."""

    class Layer(nn.Module):
        def __init__(self, given: int, grown: int) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(given), nn.Conv2d(given, grown, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)

    layers = [
        nn.Conv2d(3, 12, 3, padding=1),
        Layer(12, 8),
        Layer(20, 8),
        conv(28, 14, 1),
        nn.AvgPool2d(2),
        Layer(14, 8),
        Layer(22, 8),
    ]
    return nn.Sequential(
        *layers, nn.BatchNorm2d(30), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(30, 10)
    )


def two_sensors() -> nn.Module:
    """A spectrogram and a series, joined: `(B, 1, 30, 20), (B, 6, 60) -> (B, 4)`."""

    def run(self: Any, image: Tensor, series: Tensor) -> Tensor:
        x = self.second(self.first(image)).mean((2, 3))
        y = F.relu(self.series2(F.relu(self.series1(series)))).amax(2)
        return self.head(F.relu(self.joined(torch.cat([x, y], 1))))

    layers = {
        "first": conv(1, 12, 3, 2),
        "second": conv(12, 24, 3, 2),
        "series1": nn.Conv1d(6, 16, 7, 2, 3),
        "series2": nn.Conv1d(16, 16, 5),
    }
    return Forward(run, **layers, joined=nn.Linear(40, 24), head=nn.Linear(24, 4))


def spatial_gate() -> nn.Module:
    """CBAM: a gate from mean and maximum over the channels: `(B, 3, 28, 28) -> (B, 6)`."""

    def run(self: Any, x: Tensor) -> Tensor:
        x = self.stem(x)
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.head(self.last(x * torch.sigmoid(self.gate(seen))).mean((2, 3)))

    return Forward(
        run, stem=conv(3, 20, 3, 2), gate=nn.Conv2d(2, 1, 7, padding=3), last=conv(20, 32), head=nn.Linear(32, 6)
    )


def silu_images() -> nn.Module:
    """SiLU, leaky slopes, a padded average pool, a flattened head: `(B, 3, 36, 28) -> (B, 7)`."""
    layers = [
        conv(3, 12, 3, 2, act=nn.SiLU),
        nn.Conv2d(12, 20, 3, padding=1),
        nn.LeakyReLU(0.1),
        nn.AvgPool2d(3, 2, 1),
        conv(20, 24, 3, 2),
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 5 * 4, 32), nn.ReLU(), nn.Linear(32, 7))


def mixer() -> nn.Module:
    """Patches as tokens, linear layers over tokens and over channels, layer norms: `(B, 3, 24, 24) -> (B, 5)`."""

    def run(self: Any, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)  # (B, 36, 24)
        x = x + self.token2(F.relu(self.token1(self.norm1(x).transpose(1, 2)))).transpose(1, 2)
        x = x + self.channel2(F.relu(self.channel1(self.norm2(x))))
        return self.head(x.mean(1))

    layers = {
        "token1": nn.Linear(36, 16),
        "token2": nn.Linear(16, 36),
        "channel1": nn.Linear(24, 48),
        "channel2": nn.Linear(48, 24),
    }
    return Forward(
        run,
        patch=nn.Conv2d(3, 24, 4, 4),
        norm1=nn.LayerNorm(24),
        norm2=nn.LayerNorm(24),
        **layers,
        head=nn.Linear(24, 5),
    )


def residual_stages() -> nn.Module:
    """Residual blocks, a max pool with padding, a wide end: `(B, 3, 48, 48) -> (B, 10)`."""
    layers = [conv(3, 16, 5, 2), nn.MaxPool2d(3, 2, 1), Residual(16), conv(16, 32, 3, 2), Residual(32), conv(32, 96, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


def inverted_strides() -> nn.Module:
    """Inverted blocks on a wide image: `(B, 1, 30, 90) -> (B, 20)`."""
    blocks = [Inverted(12, 12, 3, 1), Inverted(12, 20, 4, 2), Inverted(20, 20, 4, 1), Inverted(20, 32, 4, 2)]
    return nn.Sequential(
        conv(1, 12, 3, 2, act=nn.ReLU6), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 20)
    )


def denoiser() -> nn.Module:
    """An auto-encoder over time, strides down and transposed convolutions up: `(B, 4, 64) -> (B, 4, 64)`."""
    layers = [nn.Conv1d(4, 12, 5, 2, 2), nn.ReLU(), nn.Conv1d(12, 20, 5, 2, 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose1d(20, 12, 4, 2, 1), nn.ReLU(), nn.ConvTranspose1d(12, 4, 4, 2, 1))


def grouped() -> nn.Module:
    """Grouped convolutions and group norms: `(B, 2, 32, 20) -> (B, 6)`."""
    layers = [
        nn.Conv2d(2, 16, 3, padding=1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, 2, 1, groups=4),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, conv(16, 32, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 6))


def _torchvision(name: str) -> nn.Module:
    network = load_torchvision().models.get_model(name, weights=None, num_classes=10)
    assert isinstance(network, nn.Module)
    return network


resnet18, mobilenet_v2 = partial(_torchvision, "resnet18"), partial(_torchvision, "mobilenet_v2")


def decoder() -> nn.Module:
    """A convolutional auto-encoder, norms behind its transposed convolutions: `(B, 1, 32, 24) -> (B, 1, 32, 24)`."""
    down = [conv(1, 12, 3, 2), conv(12, 20, 3, 2), nn.ConvTranspose2d(20, 12, 4, 2, 1), nn.BatchNorm2d(12), nn.ReLU()]
    return nn.Sequential(
        *down, nn.ConvTranspose2d(12, 8, 2, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1)
    )


def found(
    method: Any, make: Callable[[], nn.Module], *shapes: tuple[int, ...], keep: float = 0.7
) -> Callable[[], nn.Module]:
    """What a search model of random architecture exports, norms as a training leaves them; `keep`: mean of its parameters."""

    def build() -> nn.Module:
        seed = make()
        settle(seed)
        example = tuple(torch.cat([torch.randn(1, *shape)] * 2) for shape in shapes)
        model = method(seed, input_example=example if len(example) > 1 else example[0])
        with torch.no_grad():
            for parameter in model.arch_parameters():
                parameter.copy_(torch.rand_like(parameter) + keep - 0.5)
        return model.arch_export()

    return build


def settle(network: nn.Module) -> None:
    """Norms get statistics and weights, and linear layers biases, that no converter folds away."""
    for module in network.modules():
        if (
            isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm))
            and module.weight is not None
        ):
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.uniform_(module.bias, -0.2, 0.2)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
        if isinstance(module, nn.Linear) and module.bias is not None and not bool(module.bias.any()):
            nn.init.constant_(module.bias, 0.1)


_SEEDS: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...]]] = {
    "attention_keywords": (attention_keywords, (1, 40, 16)),
    "gated_images": (gated_images, (3, 40, 40)),
    "segmentation": (segmentation, (1, 32, 48)),
    "temporal": (temporal, (9, 128)),
    "wide_separable": (wide_separable, (3, 50, 38)),
    "recurrent_keywords": (recurrent_keywords, (1, 24, 10)),
    "mobile_v3": (mobile_v3, (3, 64, 48)),
    "dense_blocks": (dense_blocks, (3, 24, 24)),
    "two_sensors": (two_sensors, ((1, 30, 20), (6, 60))),
    "spatial_gate": (spatial_gate, (3, 28, 28)),
    "silu_images": (silu_images, (3, 36, 28)),
    "mixer": (mixer, (3, 24, 24)),
    "residual_stages": (residual_stages, (3, 48, 48)),
    "inverted_strides": (inverted_strides, (1, 30, 90)),
    "denoiser": (denoiser, (4, 64)),
    "grouped": (grouped, (2, 32, 20)),
    "decoder": (decoder, (1, 32, 24)),
    "resnet18": (resnet18, (3, 64, 64)),
    "mobilenet_v2": (mobilenet_v2, (3, 64, 64)),
    "tcn": (tcn, (4, 64)),
    "wake_word": (wake_word_cnn, (40, 30)),
    "autoencoder": (autoencoder, (640,)),
}
"""Name -> seed, shape of one sample (of each input)."""


def _shapes(shape: tuple[Any, ...]) -> tuple[Any, ...]:
    return shape if isinstance(shape[0], tuple) else (shape,)


_UNUSUAL = [name for name in device_networks.NETWORKS if name not in ("gru", "volume", "two_inputs")]

NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[Any, ...]]] = {
    **{f"pit {name}": (found(PIT, make, *_shapes(shape)), shape) for name, (make, shape) in _SEEDS.items()},
    "supernet resnet8": (found(SuperNet, lambda: TASKS["ic"].supernet(10), (3, 32, 32)), (3, 32, 32)),
    "pit_supernet resnet8": (found(PITSuperNet, lambda: TASKS["ic"].supernet(10), (3, 32, 32)), (3, 32, 32)),
    "supernet ds_cnn": (found(SuperNet, lambda: TASKS["kws"].supernet(12), (1, 49, 10)), (1, 49, 10)),
    "pit_supernet mobilenet_v1": (found(PITSuperNet, lambda: TASKS["vww"].supernet(2), (3, 96, 96)), (3, 96, 96)),
    **{
        f"half {name}": (found(PIT, *device_networks.NETWORKS[name], keep=0.55), device_networks.NETWORKS[name][1])
        for name in _UNUSUAL
    },
    "pit resnet8 0.5": (found(PIT, resnet8, (3, 32, 32), keep=0.5), (3, 32, 32)),
}
"""Name -> how it is built, and the shape of one sample (of each input)."""
