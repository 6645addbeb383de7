"""Equality of quantised networks and their integer programs at every point, over random structures of networks and toys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from integers import batch, check, found
from toys import TOYS, randomise

from benchmarks_mlperf_tiny.networks import autoencoder, ds_cnn, mobilenet_v1, resnet8

NETWORKS: dict[str, Any] = {
    "resnet8": (resnet8, (3, 32, 32)),
    "ds_cnn": (ds_cnn, (1, 49, 10)),
    "mobilenet_v1": (mobilenet_v1, (3, 96, 96)),
    "autoencoder": (autoencoder, (640,)),
}
PROGRAMS = (
    *("residual", "dense_block", "concatenated_twice", "squeeze_excite", "gated_product", "single_channel_gate"),
    *("channel_shuffle", "split_sizes", "option_a_shortcut", "slices_of_channels", "light_residual", "fractal"),
    *("called_twice", "tied_weights", "plain_chain", "depthwise", "depthwise_multiplier", "grouped", "transposed"),
    *("flatten_to_linear", "pixel_shuffle", "three_dimensions", "dense_autoencoder", "causal", "symmetric"),
)


@pytest.mark.parametrize("name", NETWORKS)
def test_five_structures_of_every_network(name: str) -> None:
    make, shape = NETWORKS[name]
    compared = 0
    for number in range(5):
        torch.manual_seed(number)
        x = batch(shape, size=8)
        compared += check(found(randomise(make()), x, number), x)
    print(f"{name}: {compared:,} integers compared, none differs")


@pytest.mark.parametrize("name", PROGRAMS)
def test_twenty_structures_of_every_toy(name: str) -> None:
    for number in range(20):
        torch.manual_seed(number)
        x = TOYS[name].batch(4, torch.float32)
        check(found(TOYS[name].seed(torch.float32), x, number, masks=number % 4 > 0), x)
