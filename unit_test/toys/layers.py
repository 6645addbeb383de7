"""Toys that are chains of layers: one layer type or option each."""

from __future__ import annotations

from torch import nn

from toys.table import chain, toy


@toy("plain_chain", (3, 8, 8), channels=6 + 8)
def plain_chain() -> nn.Module:
    norms = nn.BatchNorm2d(6), nn.BatchNorm2d(8)
    return chain(nn.Conv2d(3, 6, 3, padding=1), norms[0], nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), norms[1], nn.ReLU())


@toy("depthwise", (3, 8, 8), channels=6 + 5)
def depthwise() -> nn.Module:
    middle = [nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6), nn.ReLU6(), nn.Conv2d(6, 5, 1)]
    return chain(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU6(), *middle, nn.Hardswish())


@toy("depthwise_multiplier", (3, 8, 8), channels=4 + 6)
def depthwise_multiplier() -> nn.Module:
    # One class of the first layer stands at three positions of the second.
    return chain(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 12, 3, groups=4), nn.BatchNorm2d(12), nn.Sigmoid(), nn.Conv2d(12, 6, 1)
    )


@toy("grouped", (3, 8, 8), channels=8 // 2 + 6 // 2 + 5)
def grouped_convolution() -> nn.Module:
    # Channel j of both groups lives and dies together, in what a grouped layer reads and in what it writes.
    return chain(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 6, 3, groups=2), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 1))


@toy("transposed", (3, 4, 4), channels=6 // 2 + 4 // 2 + 5)
def transposed() -> nn.Module:
    up = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
    return chain(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), up, nn.Softplus(), nn.ConvTranspose2d(4, 5, 2))


@toy("group_norm", (3, 8, 8), channels=3 + 8)
def group_norm() -> nn.Module:
    # Three norm groups of two channels; an instance norm keeps every channel apart.
    instance = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
    return chain(nn.Conv2d(3, 6, 3), nn.GroupNorm(3, 6), nn.SiLU(), nn.Conv2d(6, 8, 3), instance, nn.Sigmoid())


@toy("prelu", (3, 8, 8), channels=6 + 4)
def prelu() -> nn.Module:
    return chain(nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Conv2d(6, 4, 3, bias=False), nn.PReLU(), nn.LPPool2d(2, 2))


@toy("flatten_to_linear", (3, 6, 6), channels=4 + 7)
def flatten_to_linear() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 7),
        nn.BatchNorm1d(7),
        nn.ELU(),
        nn.Linear(7, 3),
    )


@toy("pixel_shuffle", (3, 4, 4), channels=2 + 5)
def pixel_shuffle() -> nn.Module:
    # Four positions of the convolution make one channel of the image.
    return chain(nn.Conv2d(3, 8, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(2, 5, 3), nn.ReLU(inplace=True))


@toy("padding_modes", (3, 8, 8), channels=4 + 5 + 4 + 5)
def padding_modes() -> nn.Module:
    return chain(
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 5, 5, padding=2, padding_mode="circular"),
        nn.Conv2d(5, 4, (3, 1), padding=(1, 0), padding_mode="replicate"),
        nn.ReLU(),
        nn.Conv2d(4, 5, 4, padding="same", dilation=2),
    )


@toy("three_dimensions", (2, 4, 6, 6), channels=4 + 5)
def three_dimensions() -> nn.Module:
    head = [nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(5, 3)]
    return nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Mish(), nn.Conv3d(4, 5, 3), *head)


@toy("linear_on_sequences", (7, 5), channels=6 + 8)
def linear_on_sequences() -> nn.Module:
    # LayerNorm normalises those of its 6 channels that live.
    return nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))


@toy("dense_autoencoder", (12,), channels=8 + 3 + 8)
def dense_autoencoder() -> nn.Module:
    hidden = [nn.Linear(8, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU()]
    return nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), *hidden, nn.Linear(8, 12))
