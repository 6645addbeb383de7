"""The seed networks are the reference models, layer by layer."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks_mlperf_tiny import networks
from benchmarks_mlperf_tiny.errors import BenchmarkError
from nasopt.errors import ConfigError

# model -> (factory, input shape, weights with norms folded, MACs): golden numbers of the reference models
GOLDEN: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...], int, int]] = {
    "ic": (networks.resnet8, (3, 32, 32), 77_706, 12_501_632),
    "ic2": (lambda **kw: networks.resnet8(width=40, **kw), (3, 32, 32), 480_330, 76_473_920),
    "kws": (networks.ds_cnn, (1, 49, 10), 22_604, 2_656_768),
    "vww": (networks.mobilenet_v1, (3, 96, 96), 210_850, 7_489_664),
    "ad": (networks.autoencoder, (640,), 265_864, 264_192),
    "sww": (networks.wake_word_cnn, (40, 30), 46_883, 826_368),
}
PADDED = ["ic", "ic2", "kws", "vww"]


def count_layers(model: nn.Module, input_shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """(MACs, weights with norms folded) of every convolution and linear layer, in the order of execution.

    Every such layer stores one bias per output: its own, or the one that folding the next norm creates.
    """
    rows: list[tuple[int, int]] = []

    def hook(layer: nn.Module, _args: object, output: Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        positions = output[0, 0].numel() if output.dim() > 2 else 1
        rows.append((weight.numel() * positions, weight.numel() + weight.shape[0]))

    layers = [m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    model.eval()(torch.zeros(1, *input_shape))
    for handle in handles:
        handle.remove()
    assert len(rows) == len(layers)
    return rows


@pytest.mark.parametrize("name", GOLDEN)
def test_totals(name: str) -> None:
    factory, shape, size, macs = GOLDEN[name]
    rows = count_layers(factory(), shape)
    assert (sum(w for _, w in rows), sum(m for m, _ in rows)) == (size, macs)


@pytest.mark.parametrize("name", PADDED)
def test_keras_padding_changes_no_cost(name: str) -> None:
    factory, shape, size, macs = GOLDEN[name]
    rows = count_layers(factory(keras_padding=True), shape)
    assert (sum(w for _, w in rows), sum(m for m, _ in rows)) == (size, macs)


@pytest.mark.parametrize("name", GOLDEN)
def test_layer_table(name: str) -> None:
    folder = os.environ.get("NASOPT_DATA")
    if not folder:
        pytest.skip("NASOPT_DATA is unset: no layer table")
    with open(Path(folder) / "latency" / "mlperf_tiny_layers.csv", newline="") as file:
        table = [row for row in csv.DictReader(file) if row["model"] == name and row["weight"]]
    factory, shape, _, _ = GOLDEN[name]
    rows = count_layers(factory(), shape)
    assert rows == [(int(row["macs"]), int(row["params_folded"])) for row in table]


def test_seed_variant_of_ds_cnn() -> None:
    model = networks.ds_cnn(variant="seed")
    assert sum(p.numel() for p in model.parameters()) == 40_396  # norms' scale and shift counted, nothing folded


def test_parameters_of_mobilenet_v1() -> None:
    model = networks.mobilenet_v1()
    assert sum(p.numel() for p in model.parameters()) == 213_586  # as above


@pytest.mark.parametrize("name", GOLDEN)
def test_norms_are_those_of_keras(name: str) -> None:
    factory, _, _, _ = GOLDEN[name]
    norms = [m for m in factory().modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


def test_keras_padding_sits_at_the_bottom_right() -> None:
    conv = networks.conv2d(1, 1, 3, stride=2, bias=False, keras_padding=True)
    nn.init.ones_(next(conv.parameters()))
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 3, 3] = 1.0
    # Windows start at rows 0 and 2: the corner pixel (3, 3) is seen by the last window only, the pad lies behind it.
    assert conv(image)[0, 0].tolist() == [[0.0, 0.0], [0.0, 1.0]]
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 0, 0] = 1.0
    assert conv(image)[0, 0].tolist() == [[1.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("padding", ["causal", "symmetric"])
def test_tcn_keeps_time(padding: str) -> None:
    model = networks.tcn(padding=padding)
    assert model(torch.zeros(2, 4, 50)).shape == (2, 4)
    blocks = [m for m in model.modules() if isinstance(m, networks.TemporalBlock)]
    x = torch.zeros(2, 4, 50)
    for block in blocks:
        x = block(x)
        assert x.shape == (2, 32, 50)


def test_causal_tcn_never_sees_the_future() -> None:
    block = networks.TemporalBlock(1, 3, kernel=9, dilation=4, causal=True).eval()
    x = torch.randn(1, 1, 40, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[..., 25:] += 1.0
    before, after = block(x), block(changed)
    assert torch.equal(before[..., :25], after[..., :25])
    assert not torch.equal(before[..., 25:], after[..., 25:])


def test_weights_follow_the_global_seed() -> None:
    torch.manual_seed(1)
    first = networks.resnet8().state_dict()
    torch.manual_seed(1)
    second = networks.resnet8().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("call", [lambda: networks.ds_cnn(variant="x"), lambda: networks.tcn(padding="same")])
def test_unknown_variants_are_refused(call: Callable[[], nn.Module]) -> None:
    with pytest.raises((BenchmarkError, ConfigError), match="known are"):
        call()
