"""Seed networks: the MLPerf Tiny reference models, from the zoo, a wake word network and a TCN as plain PyTorch modules."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks_mlperf_tiny.errors import BenchmarkError
from nasopt.zoo.seeds import (
    ResidualBlock,
    ResNet8,
    autoencoder,
    conv2d,
    ds_cnn,
    initialise,
    mobilenet_v1,
    norm1d,
    norm2d,
    resnet8,
    separable_block,
)

__all__ = [
    "ResNet8",
    "ResidualBlock",
    "autoencoder",
    "conv2d",
    "ds_cnn",
    "initialise",
    "mobilenet_v1",
    "norm1d",
    "norm2d",
    "resnet8",
    "separable_block",
    "set_norm_momentum",
    "tcn",
    "wake_word_cnn",
]


def set_norm_momentum(model: nn.Module, momentum: float) -> None:
    """Let batch norms forget faster (or slower): short trainings need more than the reference's 0.01."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # quantised ones, too
            module.momentum = momentum


def wake_word_cnn(num_classes: int = 3) -> nn.Module:
    """1-D DS-CNN for 30 frames of 40 mel bands: streaming wake word, 46,883 weights, 826,368 MACs.

    `(B, 40, 30) -> (B, num_classes)`. No padding: time shrinks from 30 frames to 1.
    """
    channels, kernels = [40, 128, 128, 128, 32], [3, 5, 10, 15]
    layers: list[nn.Module] = []
    for inputs, outputs, kernel in zip(channels[:-1], channels[1:], kernels, strict=True):
        for conv in (nn.Conv1d(inputs, inputs, kernel, groups=inputs), nn.Conv1d(inputs, outputs, 1)):
            layers += [conv, norm1d(conv.out_channels), nn.ReLU()]
    return initialise(nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1], num_classes)))


class TemporalBlock(nn.Module):
    """Two dilated convolutions beside a shortcut: `(B, inputs, T) -> (B, outputs, T)`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int, causal: bool) -> None:
        super().__init__()
        reach = (kernel - 1) * dilation
        # Causal: all padding before the oldest sample, so that no output sees the future.
        pad = (reach, 0) if causal else (reach // 2, reach - reach // 2)

        def unit(inputs: int) -> nn.Sequential:
            if pad[0] == pad[1]:
                conv = [nn.Conv1d(inputs, outputs, kernel, padding=pad[0], dilation=dilation)]
                return nn.Sequential(*conv, nn.BatchNorm1d(outputs))
            conv = [nn.Conv1d(inputs, outputs, kernel, dilation=dilation)]
            return nn.Sequential(nn.ConstantPad1d(pad, 0.0), *conv, nn.BatchNorm1d(outputs))

        self.unit1 = unit(inputs)
        self.unit2 = unit(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Add the two paths and rectify."""
        return F.relu(self.unit2(F.relu(self.unit1(x))) + self.shortcut(x))


def tcn(
    num_classes: int = 4,
    in_channels: int = 4,
    width: int = 32,
    *,
    kernel: int = 9,
    dilations: Sequence[int] = (1, 2, 4, 8),
    padding: str = "causal",
) -> nn.Module:
    """Temporal convolutional network: `(B, in_channels, T) -> (B, num_classes)`, any `T`.

    Args:
        num_classes: outputs of the final linear layer, which sees the mean over time.
        in_channels: of the input.
        width: channels of every residual block.
        kernel: taps of every temporal convolution.
        dilations: one residual block each.
        padding: `"causal"` (zeros before the oldest sample) or `"symmetric"`; both keep `T`.

    Raises:
        BenchmarkError: unknown padding.
    """
    if padding not in ("causal", "symmetric"):
        raise BenchmarkError(f"tcn: unknown padding {padding!r}: known are 'causal' and 'symmetric'")
    blocks = [
        TemporalBlock(in_channels if index == 0 else width, width, kernel, dilation, padding == "causal")
        for index, dilation in enumerate(dilations)
    ]
    head = [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, num_classes)]
    return initialise(nn.Sequential(*blocks, *head))
