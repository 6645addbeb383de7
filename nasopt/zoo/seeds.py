"""Seeds of the zoo: the MLPerf Tiny reference models as plain PyTorch modules.

Layer for layer as in mlcommons/tiny (v1.4). Norms follow Keras' defaults there: eps 1e-3, momentum 0.99, which
PyTorch calls 0.01. Sizes in the docstrings are weights with norms folded into the layer before them, work is
multiply-accumulates for one sample.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.errors import ConfigError


def norm1d(channels: int) -> nn.BatchNorm1d:
    """Batch norm over `(B, channels)` or `(B, channels, T)` with the reference's constants."""
    return nn.BatchNorm1d(channels, eps=1e-3, momentum=0.01)


def norm2d(channels: int) -> nn.BatchNorm2d:
    """Batch norm over `(B, channels, H, W)` with the reference's constants."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def initialise(model: nn.Module) -> nn.Module:
    """Draw fresh weights from the global generator: He normal for convolutions, Glorot uniform for linear layers."""
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return model


def conv2d(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = True,
    keras_padding: bool = False,
) -> nn.Module:
    """A "same" convolution.

    At stride 2 Keras pads an even input by one pixel less at the top and left. `keras_padding` does the same with an
    explicit pad, so that weights of the reference models fit; sizes and costs are equal either way.
    """
    if keras_padding and stride == 2 and kernel > 1:
        pad = kernel - 2
        before, after = pad // 2, pad - pad // 2
        conv = nn.Conv2d(inputs, outputs, kernel, stride, 0, groups=groups, bias=bias)
        return nn.Sequential(nn.ZeroPad2d((before, after, before, after)), conv)
    return nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=bias)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: `(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)`."""

    def __init__(self, inputs: int, outputs: int, stride: int, keras_padding: bool = False) -> None:
        super().__init__()
        self.conv1 = conv2d(inputs, outputs, 3, stride=stride, keras_padding=keras_padding)
        self.norm1 = norm2d(outputs)
        self.conv2 = conv2d(outputs, outputs, 3)
        self.norm2 = norm2d(outputs)
        plain = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if plain else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Add the two paths and rectify."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet8(nn.Module):
    """Three residual stacks: `(B, in_channels, 32, 32) -> (B, num_classes)`."""

    def __init__(self, num_classes: int, in_channels: int, width: int, keras_padding: bool) -> None:
        super().__init__()
        self.stem = conv2d(in_channels, width, 3)
        self.stem_norm = norm2d(width)
        self.stack1 = ResidualBlock(width, width, 1)
        self.stack2 = ResidualBlock(width, 2 * width, 2, keras_padding)
        self.stack3 = ResidualBlock(2 * width, 4 * width, 2, keras_padding)
        self.pool = nn.AvgPool2d(8)
        self.classifier = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores before the softmax."""
        x = F.relu(self.stem_norm(self.stem(x)))
        x = self.stack3(self.stack2(self.stack1(x)))
        return self.classifier(torch.flatten(self.pool(x), 1))


def resnet8(num_classes: int = 10, in_channels: int = 3, width: int = 16, *, keras_padding: bool = False) -> nn.Module:
    """ResNet-8 for 32x32 images: image classification, 77,706 weights, 12,501,632 MACs.

    `width=40` is the wide variant, 480,330 weights and 76,473,920 MACs.
    """
    return initialise(ResNet8(num_classes, in_channels, width, keras_padding))


def separable_block(width: int, extra_pointwise: bool) -> nn.Sequential:
    """Depthwise 3x3 and pointwise 1x1, each with norm and ReLU; optionally one more 1x1 between them."""
    layers: list[nn.Module] = [conv2d(width, width, 3, groups=width)]
    if extra_pointwise:
        layers.append(nn.Conv2d(width, width, 1))
    layers += [norm2d(width), nn.ReLU()]
    layers += [nn.Conv2d(width, width, 1), norm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


def ds_cnn(
    num_classes: int = 12, width: int = 64, *, variant: str = "mlperf", keras_padding: bool = False
) -> nn.Module:
    """DS-CNN for 49x10 MFCC features: keyword spotting, 22,604 weights, 2,656,768 MACs.

    `(B, 1, 49, 10) -> (B, num_classes)`. `variant="seed"` has a further 1x1 convolution in every block: 40,396
    parameters, norms counted.

    Raises:
        ConfigError: unknown variant.
    """
    if variant not in ("mlperf", "seed"):
        raise ConfigError(f"ds_cnn: unknown variant {variant!r}: known are 'mlperf' and 'seed'")
    if keras_padding:  # 49 rows at stride 2: 4 above, 5 below
        stem: list[nn.Module] = [nn.ZeroPad2d((1, 1, 4, 5)), nn.Conv2d(1, width, (10, 4), 2)]
    else:
        stem = [nn.Conv2d(1, width, (10, 4), 2, (5, 1))]
    blocks = [separable_block(width, extra_pointwise=variant == "seed") for _ in range(4)]
    return initialise(
        nn.Sequential(
            *stem,
            norm2d(width),
            nn.ReLU(),
            nn.Dropout(0.2),
            *blocks,
            nn.Dropout(0.4),
            nn.AvgPool2d((24, 5)),
            nn.Flatten(),
            nn.Linear(width, num_classes),
        )
    )


def mobilenet_v1(
    num_classes: int = 2, in_channels: int = 3, *, scale: float = 1.0, keras_padding: bool = False
) -> nn.Module:
    """MobileNetV1 x0.25 for 96x96 images: visual wake words, 210,850 weights, 7,489,664 MACs.

    `(B, in_channels, 96, 96) -> (B, num_classes)`. Convolutions have no bias: the norm after each adds one.
    `scale` multiplies all widths.
    """
    widths = [8, 16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256]
    widths = [max(1, round(scale * width)) for width in widths]
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]

    def unit(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
        conv = conv2d(inputs, outputs, kernel, stride=stride, groups=groups, bias=False, keras_padding=keras_padding)
        return [conv, norm2d(outputs), nn.ReLU()]

    layers = unit(in_channels, widths[0], 3, 2)
    for inputs, outputs, stride in zip(widths[:-1], widths[1:], strides, strict=True):
        layers += unit(inputs, inputs, 3, stride, groups=inputs)
        layers += unit(inputs, outputs, 1, 1)
    return initialise(nn.Sequential(*layers, nn.AvgPool2d(3), nn.Flatten(), nn.Linear(widths[-1], num_classes)))


def autoencoder(features: int = 640, width: int = 128, code: int = 8) -> nn.Module:
    """Dense auto-encoder for 5 log-mel frames: anomaly detection, 265,864 weights, 264,192 MACs.

    `(B, features) -> (B, features)`.
    """
    sizes = [features, *[width] * 4, code, *[width] * 4]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), norm1d(outputs), nn.ReLU()]
    return initialise(nn.Sequential(*layers, nn.Linear(sizes[-1], features)))


SEEDS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "kws": (ds_cnn, (1, 49, 10)),
    "ic": (resnet8, (3, 32, 32)),
    "vww": (mobilenet_v1, (3, 96, 96)),
    "ad": (autoencoder, (640,)),
}
"""Task -> its seed, and the shape of one sample."""
