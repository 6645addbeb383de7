"""Networks of the documents that propose the layers of `nasopt.nn`, as seeds; run it to see their counts beside the documents'.

```
python -m benchmarks.document_networks
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nasopt.cost import network_cost
from nasopt.nn import (
    AdderConv2d,
    AWConv2d,
    BinaryActivation,
    BinaryConv2d,
    LightResidual,
    MeanVarianceECA,
    MultiHeadDepthwise,
    ReafConv2d,
    adder_norm,
    adder_separable,
    fractal_block,
)

# (in, out, kernel, stride) -> a layer that keeps the size but for the stride, without bias or norm.
MakeConv = Callable[[int, int, int, int], nn.Module]


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    """A plain convolution."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def adder(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    """An adder layer."""
    return AdderConv2d(inputs, outputs, kernel, stride, kernel // 2)


def separable_adder(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    """A depthwise separable adder block; 1x1 layers and those that double the channels at stride 2 stay dense."""
    if kernel == 1 or stride > 1:
        return adder(inputs, outputs, kernel, stride)
    return adder_separable(inputs, outputs, kernel, stride)


class Residual(nn.Module):
    """`relu(body(x) + shortcut(x))`."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.last = body, shortcut, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x) + self.shortcut(x))


def unit(layer: nn.Module, width: int, activation: bool = True) -> list[nn.Module]:
    """Layer, norm, ReLU; the statistics of a norm after an adder layer start at those of its outputs."""
    last = list(layer.modules())[-1]
    norm = adder_norm(last) if isinstance(last, AdderConv2d) else nn.BatchNorm2d(width)
    return [layer, norm, *([nn.ReLU()] if activation else [])]


def shortcut(make: MakeConv, inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity, or a 1x1 layer and a norm where shapes differ."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(*unit(make(inputs, outputs, 1, stride), outputs, False))


def resnet20(make: MakeConv, classes: int) -> nn.Module:
    """ResNet-20 for 32 x 32 images; the first layer and the classifier, a bias-free 1x1 convolution with norm, multiply."""
    layers = unit(conv(3, 16, 3), 16)
    inputs = 16
    for outputs in (16, 32, 64):
        for index in range(3):
            stride = 2 if index == 0 and outputs > 16 else 1
            first = unit(make(inputs, outputs, 3, stride), outputs)
            body = nn.Sequential(*first, *unit(make(outputs, outputs, 3, 1), outputs, False))
            layers.append(Residual(body, shortcut(make, inputs, outputs, stride), nn.ReLU()))
            inputs = outputs
    head = unit(conv(64, classes, 1), classes, False)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), *head, nn.Flatten())


def mobilenet_v2(classes: int, make: MakeConv = conv) -> nn.Module:
    """MobileNetV2 for 32 x 32 images; `make` gives its 1x1 layers, `AdderConv2d` its depthwise ones if it makes adders."""
    is_adder = isinstance(make(1, 1, 1, 1), AdderConv2d)

    def depthwise(width: int, stride: int) -> nn.Module:
        if is_adder:
            return AdderConv2d(width, width, 3, stride, 1, groups=width)
        return nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False)

    layers = unit(conv(3, 32, 3), 32)
    inputs = 32
    rows = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, outputs, count, first_stride in rows:
        for index in range(count):
            stride, wide = first_stride if index == 0 else 1, inputs * expansion
            body = [*unit(make(inputs, wide, 1, 1), wide), *unit(depthwise(wide, stride), wide)]
            block: nn.Module = nn.Sequential(*body, *unit(make(wide, outputs, 1, 1), outputs, False))
            if stride == 1:
                block = Residual(block, shortcut(make, inputs, outputs, 1), nn.Identity())
            layers.append(block)
            inputs = outputs
    layers += [*unit(make(inputs, 1280, 1, 1), 1280), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, classes)]
    return nn.Sequential(*layers)


def resnet_bottleneck(
    classes: int,
    middle: MakeConv = conv,
    widths: tuple[int, int] = (64, 64),
    blocks: Sequence[int] = (3, 4, 6, 3),
    small_images: bool = False,
) -> nn.Module:
    """ResNet-50 (other `blocks`: 101) with another 3x3 layer, which reads and writes multiples of `widths`."""
    layers = unit(conv(3, 64, 3), 64) if small_images else [*unit(conv(3, 64, 7, 2), 64), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, count in enumerate(blocks):
        reads, writes = (width << stage for width in widths)
        outputs = 256 << stage
        for index in range(count):
            stride = 2 if index == 0 and stage > 0 else 1
            body = [*unit(conv(inputs, reads, 1), reads), *unit(middle(reads, writes, 3, stride), writes)]
            body += unit(conv(writes, outputs, 1), outputs, False)
            layers.append(Residual(nn.Sequential(*body), shortcut(conv, inputs, outputs, stride), nn.ReLU()))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def reaf(groups: int, merge: int) -> MakeConv:
    """A REAF convolution."""

    def make(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
        return ReafConv2d(inputs, outputs, kernel, groups, merge, stride, kernel // 2)

    return make


def weight_attention(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    """A convolution with weight attention."""
    return AWConv2d(inputs, outputs, kernel, stride, kernel // 2)


def binary_fractal(columns: int, width: int) -> nn.Module:
    """A block of UA-ResNet: binary 3x3 convolutions of binary activations in a residual fractal; one column: Bi-Real."""

    def layer() -> nn.Module:
        return nn.Sequential(BinaryActivation(), BinaryConv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))

    return fractal_block(columns, layer)


# Document's row: (columns, width, size of the images there, memory for 64 images in float [MB]).
UA_RESNET_ROWS = {
    "Bi-Real ResNet18(64), ImageNet": (1, 64, 56, 154.14),
    "UA-ResNet21(53), ImageNet": (2, 53, 56, 170.20),
    "UA-ResNet37(41), ImageNet": (3, 41, 56, 164.58),
    "UA-ResNet69(31), ImageNet": (4, 31, 56, 149.32),
    "Bi-Real ResNet34(64), ImageNet": (1, 64, 56, 154.14),
    "UA-ResNet41(48), ImageNet": (2, 48, 56, 154.14),
    "UA-ResNet77(35), ImageNet": (3, 35, 56, 140.49),
    "Bi-Real ResNet18(64), CIFAR-100": (1, 64, 32, 50.33),
    "UA-ResNet21(50), CIFAR-100": (2, 50, 32, 52.43),
    "UA-ResNet37(36), CIFAR-100": (3, 36, 32, 47.19),
    "UA-ResNet69(26), CIFAR-100": (4, 26, 32, 40.89),
    "Bi-Real ResNet34(64), CIFAR-100": (1, 64, 32, 50.33),
    "UA-ResNet41(45), CIFAR-100": (2, 45, 32, 47.19),
    "UA-ResNet77(32), CIFAR-100": (3, 32, 32, 41.94),
    "UA-ResNet149(22), CIFAR-100": (4, 22, 32, 34.60),
}


def ua_resnet_memory(columns: int, width: int, size: int) -> float:
    """Peak of live activations of a block for 64 images in float [MB]; priced for one image in int8."""
    return float(network_cost(binary_fractal(columns, width), "memory", (width, size, size))) * 64 * 4 / 1e6


def flynet(heads: int, width: float = 0.5, classes: int = 1000) -> nn.Module:
    """MobileNetV3-small's widths with FlyNet's parts: multi-head depthwise layers, attention, light residuals everywhere."""

    def scaled(channels: int) -> int:
        return max(8, int(channels * width + 4) // 8 * 8)

    layers = [*unit(conv(3, scaled(16), 3, 2), scaled(16), False), nn.Hardswish()]
    inputs = scaled(16)
    rows = ((3, 16, 16, 2), (3, 72, 24, 2), (3, 88, 24, 1), (5, 96, 40, 2), (5, 240, 40, 1), (5, 240, 40, 1))
    rows += ((5, 120, 48, 1), (5, 144, 48, 1), (5, 288, 96, 2), (5, 576, 96, 1), (5, 576, 96, 1))
    for kernel, wide, outputs, stride in rows:
        wide, outputs = scaled(wide), scaled(outputs)
        body = [*unit(conv(inputs, wide, 1), wide, False), nn.Hardswish()]
        body += [MultiHeadDepthwise(wide, heads, kernel, stride, kernel // 2), nn.BatchNorm2d(wide), MeanVarianceECA(7)]
        body += unit(conv(wide, outputs, 1), outputs, False)
        layers.append(Residual(nn.Sequential(*body), LightResidual(inputs, outputs, stride), nn.Identity()))
        inputs = outputs
    last = [*unit(conv(inputs, scaled(576), 1), scaled(576), False), nn.Hardswish(), nn.AdaptiveAvgPool2d(1)]
    head = [nn.Flatten(), nn.Linear(scaled(576), scaled(1024)), nn.Hardswish(), nn.Linear(scaled(1024), classes)]
    return nn.Sequential(*layers, *last, *head)


class Dense(nn.Module):
    """`x` and what a pre-activated bottleneck makes of it, side by side."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        squeeze = [nn.BatchNorm2d(inputs), nn.ReLU(), conv(inputs, 4 * growth, 1)]
        self.body = nn.Sequential(*squeeze, nn.BatchNorm2d(4 * growth), nn.ReLU(), conv(4 * growth, growth, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


DENSENETS = {21: (1, 2, 3, 2), 37: (2, 4, 6, 4), 63: (3, 6, 12, 8), 121: (6, 12, 24, 16), 201: (6, 12, 48, 32)}


def densenet(depth: int, classes: int = 100, growth: int = 32) -> nn.Module:
    """DenseNet for CIFAR-100 of the distillation document: a 3x3 stem without norm, compression of one half."""
    layers: list[nn.Module] = [conv(3, 64, 3)]
    inputs = 64
    for block, count in enumerate(DENSENETS[depth]):
        if block > 0:
            layers += [nn.BatchNorm2d(inputs), nn.ReLU(), conv(inputs, inputs // 2, 1), nn.AvgPool2d(2)]
            inputs //= 2
        for _ in range(count):
            layers.append(Dense(inputs, growth))
            inputs += growth
    head = [nn.BatchNorm2d(inputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return nn.Sequential(*layers, *head)


def mlp(hidden: int) -> nn.Module:
    """Two hidden layers for MNIST."""
    layers = [nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(hidden, 10))


def parameters(model: nn.Module) -> int:
    """Parameters as PyTorch stores them, norms not folded."""
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    """Print every count beside the document's."""
    rows: list[tuple[str, float, str]] = []
    forms = {"convolution": conv, "adder": adder, "separable adder": separable_adder}
    for name, make in forms.items():
        stated = ("61,732", "67,672") if make is separable_adder else ("272,484", "278,424")
        rows += [
            (f"ResNet-20, {name}, {n} classes", parameters(resnet20(make, n)), s) for n, s in zip((10, 100), stated)
        ]
    for classes, said in ((10, "2,296,922"), (100, "2,412,212")):
        rows.append((f"MobileNetV2, {classes} classes", parameters(mobilenet_v2(classes)), said))
    with torch.device("meta"):
        rows.append(("ResNet-50, CIFAR-100", parameters(resnet_bottleneck(100, small_images=True)), "23.71 M"))
        model = resnet_bottleneck(100, reaf(6, 1), (102, 102), small_images=True)
        rows.append(("REAF-ResNet50 6-1-6, CIFAR-100", parameters(model), "22.74 M"))
        rows.append(
            ("REAF-ResNet50 8-4-70, ImageNet", parameters(resnet_bottleneck(1000, reaf(8, 4), (88, 70))), "24.85 M")
        )
        for name, blocks, said in (("50", (3, 4, 6, 3), "0.16 M"), ("101", (3, 4, 23, 3), "0.40 M")):
            plain = parameters(resnet_bottleneck(1000, blocks=blocks))
            more = parameters(resnet_bottleneck(1000, weight_attention, blocks=blocks)) - plain
            rows.append((f"AW-ResNet{name}, more than ResNet{name}", more, said))
    for heads, said in enumerate(("0.80 M", "0.83 M", "0.86 M", "0.89 M", "0.92 M"), 1):
        rows.append((f"FlyNet-like 0.5x, {heads} heads", parameters(flynet(heads)), said))
        said = f"{19 + 5 * heads} M"
        rows.append(
            (f"FlyNet-like 0.5x, {heads} heads, MACs", network_cost(flynet(heads), "macs", (3, 224, 224)), said)
        )
    for name, (columns, width, size, memory) in UA_RESNET_ROWS.items():
        rows.append((f"{name}, memory [MB]", ua_resnet_memory(columns, width, size), f"{memory:.2f}"))
    for name, count, said in rows:
        print(
            f"{name:45} {count:14,.2f}   document: {said}" if count % 1 else f"{name:45} {count:14,}   document: {said}"
        )


if __name__ == "__main__":
    main()
