"""Parts of LiteRT files that need none of its packages: one-dimensional layers, ranges, stored values, names in C++."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toys.table import randomise

from benchmarks_mlperf_tiny import networks
from nasopt.errors import MissingExtraError
from nasopt.export import to_tflite
from nasopt.export.c_program import Names, resolver_method
from nasopt.export.lift import TwoDimensional
from nasopt.export.litert import Extremes, layer_finder
from nasopt.export.tflite_model import Port


class Everything(nn.Module):
    """Every one-dimensional rule, and operations without one between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 6, 4, stride=2, padding=2, dilation=2)
        self.same = nn.Conv1d(6, 6, 3, padding="same", groups=3)
        self.norm = nn.BatchNorm1d(6)
        self.prelu = nn.PReLU(6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm(self.conv(x)))
        y = self.prelu(self.same(F.pad(x, (2, 1)))[:, :, 1:-2])  # slicing has no rule
        x = x + y * torch.sigmoid(x) - 0.5
        x = torch.cat([F.max_pool1d(x, 3, 2, 1), F.avg_pool1d(x, 2, ceil_mode=True)[..., :6]], 1)
        x = F.conv1d(x, self.same.weight.repeat(1, 6, 1), padding=1)
        x = F.pad(F.pad(x, (1, 1), mode="replicate"), (1, 0, 0, 2))  # nor have these
        z = F.adaptive_avg_pool1d(x, 2)
        z += 1.0
        z = torch.cat([z, z[:, :, :1], z[..., 1:], z[:, 2:]][:3], -1)[:, 1:][0:2]
        means = [x.mean(-1), x.mean(2, keepdim=True).flatten(1), x.mean(1), x.mean()[None, None].expand(2, 1)]
        return torch.cat([z.flatten(1), *means], 1)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (Everything, (3, 25)),
        (lambda: networks.tcn(), (4, 32)),
        (lambda: networks.wake_word_cnn(), (40, 30)),
        (lambda: networks.resnet8(keras_padding=True), (3, 32, 32)),
        (lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2)), (7, 5)),
    ],
)
def test_lifted_layers_compute_the_same(make: Any, shape: tuple[int, ...]) -> None:
    network = randomise(make()).double().eval()
    x = torch.randn(2, *shape, dtype=torch.float64)
    wanted = network(x)
    with TwoDimensional():
        found = network(x)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("count_include_pad", [False, True])
def test_means_at_the_rim_compute_the_same(count_include_pad: bool) -> None:
    images, series = torch.randn(2, 3, 9, 11), torch.randn(2, 3, 11)
    for kernel, stride, padding, ceil in itertools.product((2, 3, 4), (1, 2, 3, 5), (0, 1), (False, True)):
        sizes = (kernel, stride, padding, ceil, count_include_pad)
        for function, x in ((F.avg_pool2d, images), (F.avg_pool1d, series)):
            with TwoDimensional():
                pooled = function(x, *sizes)
            assert torch.allclose(pooled, function(x, *sizes), atol=1e-6), (function.__name__, sizes)


def test_transposed_convolutions_compute_the_same() -> None:
    images, series = torch.randn(2, 4, 5, 6), torch.randn(2, 4, 6)
    kernels = (torch.randn(4, 2, 4, 3), torch.randn(4, 2, 3)), torch.randn(4)
    for stride, padding, end, groups in itertools.product((1, 2, 3), (0, 1), (0, 1), (1, 2)):
        if end >= stride:
            continue
        for function, x, kernel in zip((F.conv_transpose2d, F.conv_transpose1d), (images, series), kernels[0]):
            arguments = (x, kernel, kernels[1][: 2 * groups], stride, padding, end, groups)
            with TwoDimensional():
                made = function(*arguments)
            assert torch.allclose(made, function(*arguments), atol=1e-5), (function.__name__, stride, padding, end)


def test_arithmetic_stays_lifted() -> None:
    x = torch.randn(2, 4, 7)
    with TwoDimensional() as mode:
        y = F.max_pool1d(x, 1)
        results = [1 - y, y / 3, -y, y**2, y.clamp(min=0), torch.maximum(y, y * 2), y.abs(), torch.exp(y)]
        assert all(mode.lift(one).dim() == 4 and id(one) in mode._lifted for one in results)
    for one, other in zip(
        results, [1 - x, x / 3, -x, x**2, x.clamp(min=0), torch.maximum(x, x * 2), x.abs(), torch.exp(x)]
    ):
        assert torch.equal(one, other)


def test_a_mean_over_all_positions_is_a_pooling() -> None:
    x = torch.randn(2, 3, 4, 5)
    with TwoDimensional():
        for dims, keep in (((2, 3), False), ((-1, 2), True), (3, False), ((1, 2, 3), False), (0, True)):
            torch.testing.assert_close(x.mean(dims, keepdim=keep), torch.as_tensor(x.numpy().mean(dims, keepdims=keep)))
        torch.testing.assert_close(x.mean(), torch.as_tensor(x.numpy().mean()))
        assert x.mean((2, 3), dtype=torch.float64).dtype == torch.float64


def test_ranges_leave_out_the_rarest_values() -> None:
    found = Extremes()
    values = np.arange(200_000, dtype=np.float32)
    np.random.default_rng(0).shuffle(values)
    for part in np.split(values, 50):
        found.add(part.reshape(2, -1))
    assert found.count == 200_000
    assert [float(v[0]) for v in found.limits(0.0).values()] == [0.0, 199_999.0]
    assert [float(v[0]) for v in found.limits(1e-5).values()] == [2.0, 199_997.0]


def test_stored_values_are_rounded_and_clipped() -> None:
    port = Port("x", (1, 1, 3, 2), "int8", 3, 0.5, 3, channels_last=True)
    sample = torch.tensor([[[0.0, 0.26, -1.0], [100.0, -100.0, 0.74]]])  # (1, 2, 3)
    stored = port.encode(sample)
    assert stored.dtype == np.int8
    assert stored.tolist() == [[[[3, 127], [4, -128], [1, 4]]]]
    assert port.decode(stored).tolist() == [[[0.0, 0.5, -1.0], [62.0, -65.5, 0.5]]]
    plain = Port("x", (1, 4, 5, 3), "float32", 4, 0.0, 0, channels_last=True)
    x = torch.randn(1, 3, 4, 5)
    assert plain.encode(x).shape == (1, 4, 5, 3)
    assert torch.equal(plain.decode(plain.encode(x)), x)


def test_layers_are_found_in_the_converter_s_names() -> None:
    find = layer_finder(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2))))
    assert find(["a.Flat/nasopt.<2>_2;;a.Flat/nasopt.<1>_1;;a.Flat/nasopt.<0>_0;1"]) == "0"
    assert find(["a.Flat/nasopt.<2>_2;"]) == "2"
    assert find(["output", "a.Flat/nasopt.<3>_3/nasopt.<3.0>_0;1"]) == "3.0"
    assert find(["a.Flat;3", "constant"]) == ""


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("CONV_2D", "AddConv2D"),
        ("DEPTHWISE_CONV_2D", "AddDepthwiseConv2D"),
        ("AVERAGE_POOL_2D", "AddAveragePool2D"),
        ("FULLY_CONNECTED", "AddFullyConnected"),
        ("PADV2", "AddPadV2"),
        ("BATCH_MATMUL", "AddBatchMatMul"),
        ("SPACE_TO_BATCH_ND", "AddSpaceToBatchNd"),
        ("RELU6", "AddRelu6"),
        ("SPLIT_V", "AddSplitV"),
        ("L2_NORMALIZATION", "AddL2Normalization"),
        ("STRIDED_SLICE", "AddStridedSlice"),
    ],
)
def test_methods_of_the_resolver(kind: str, method: str) -> None:
    assert resolver_method(kind) == method


@pytest.mark.parametrize(
    ("name", "files", "symbol"),
    [
        ("found-int8.tflite", "found-int8", "found_int8"),
        ("8bit.tflite", "8bit", "model_8bit"),
        ('my "net".tflite', "my__net_", "my__net_"),
        ("netz\u00fc.tflite", "netz_", "netz_"),
        ("a_model.h", "a_model", "a_model"),
    ],
)
def test_names_of_a_program(name: str, files: str, symbol: str) -> None:
    names = Names.beside(Path("/x", name))
    assert [path.name for path in names.paths] == [f"{files}_model.h", f"{files}_model.cc", f"{files}_main.cc"]
    assert names.symbol == symbol
    assert Path("/x", name) not in names.paths


@pytest.mark.parametrize("package", ["litert_torch", "ai_edge_quantizer", "ai_edge_litert", "tflite_micro"])
def test_a_missing_extra_names_the_command(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("litert_torch", "ai_edge_quantizer", "ai_edge_litert", "tflite_micro"):
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)
    with pytest.raises(MissingExtraError, match=rf"to_tflite needs .*'{package}'.*pip install \"nasopt\[litert\]\""):
        to_tflite(nn.Linear(4, 2), tmp_path / "found.tflite", [torch.zeros(2, 4)])
    assert not list(tmp_path.iterdir())
