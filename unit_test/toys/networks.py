"""The benchmark networks as rows of the table."""

from __future__ import annotations

from torch import nn

from benchmarks_mlperf_tiny import networks
from toys.table import toy


# Stem and block outputs share the 16; every other block writes its own width, and every block has an inner one.
@toy("resnet8", (3, 32, 32), channels=16 + 16 + 32 + 32 + 64 + 64, is_network=True)
def resnet8() -> nn.Module:
    return networks.resnet8()


# The stem and four pointwise layers; depthwise layers pass channels on.
@toy("ds_cnn", (1, 49, 10), channels=5 * 64, is_network=True)
def ds_cnn() -> nn.Module:
    return networks.ds_cnn()


@toy("mobilenet_v1", (3, 96, 96), channels=8 + 16 + 2 * 32 + 2 * 64 + 6 * 128 + 2 * 256, is_network=True)
def mobilenet_v1() -> nn.Module:
    return networks.mobilenet_v1()


@toy("autoencoder", (640,), channels=8 * 128 + 8, is_network=True)
def autoencoder() -> nn.Module:
    return networks.autoencoder()


# Four inner convolutions; the outputs of all blocks are added to each other.
@toy("tcn_causal", (4, 40), channels=4 * 32 + 32, is_network=True)
def tcn_causal() -> nn.Module:
    return networks.tcn(padding="causal")


@toy("tcn_symmetric", (4, 40), channels=4 * 32 + 32, is_network=True)
def tcn_symmetric() -> nn.Module:
    return networks.tcn(padding="symmetric")
