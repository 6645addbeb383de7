"""Integer programs: golden numbers of the arithmetic, and the law that a quantised network equals its program everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from integers import batch, check, found
from torch import Tensor, nn
from torch.nn import functional as F
from toys import TOYS

from benchmarks_mlperf_tiny.networks import autoencoder, ds_cnn, mobilenet_v1, resnet8
from nasopt.export.integer.arithmetic import multiplier, multipliers, rescale, rescale_sum, sum_multipliers
from nasopt.export.integer.kernels import accumulate
from nasopt.export.integer.parts import Step


@pytest.mark.parametrize(
    ("factor", "mult", "exponent"),
    [
        (3e-4, 1319413953, -11),
        (0.00390625, 1073741824, -7),
        (0.0117, 1608035756, -6),
        (0.5, 1073741824, 0),
        (0.75, 1610612736, 0),
        (1.5, 1610612736, 1),
        (1 / 3, 1431655765, -1),
        (0.0371, 1274746293, -4),
        (1 - 1e-10, 1073741824, 1),
    ],
)
def test_multipliers(factor: float, mult: int, exponent: int) -> None:
    assert multiplier(factor) == (mult, exponent)


@pytest.mark.parametrize(
    ("factor", "values", "wanted"),
    [
        (3e-4, [1000, -1000, 12345, -98765], [0, 0, 4, -30]),
        (0.0117, [1000, -1000, 12345, -98765], [12, -12, 144, -1156]),
        (0.5, [1000, -1000, 12345, -98765], [500, -500, 6173, -49382]),
        (1.5, [1000, -1000, 12345, -98765], [1500, -1500, 18518, -148147]),
        (1 / 3, [1000], [333]),
        (0.5, [3, -3, 5, -5, 1, -1], [2, -1, 3, -2, 1, 0]),  # ties up
        (0.0371, [13, 14, 40, 41, -13, -14, 1000, -1000], [0, 1, 1, 2, 0, -1, 37, -37]),
        (2.0**-40, [2**31 - 1, 1 - 2**31], [0, 0]),
    ],
)
def test_rescaling_rounds_once_and_half_up(factor: float, values: list[int], wanted: list[int]) -> None:
    mult, shift = multipliers(np.array(factor))
    assert rescale(np.array(values), mult, shift).tolist() == wanted


def test_rescaling_is_exact_rounding() -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(-(2**24), 2**24, 200_000)
    factors = 10.0 ** generator.uniform(-5, -2, 200_000)
    mult, shift = multipliers(factors)
    near = np.abs(values * factors) < 256  # what 8 bits hold
    assert (rescale(values, mult, shift) == np.floor(values * factors + 0.5))[near].all()


def test_sums_have_factors_of_30_bits() -> None:
    first, second, n = sum_multipliers(0.75, -0.1)
    assert 2**29 <= first < 2**30
    assert (first / 2**n, second / 2**n) == pytest.approx((0.75, -0.1), abs=2**-29)
    x, y = np.array([3, -7, 2]), np.array([10, 0, -5])
    assert rescale_sum(x, y, first, second, n).tolist() == [1, -5, 2]  # 1.25, -5.25, 2.0


def test_convolution_of_one_window() -> None:
    # 1*-2+2*3 + 3*0+4*4+5*-1 + 6*2+7*-3+8*1 = 14; 14 + 17 = 31; 31 * .0371 = 1.15.
    mult, shift = multipliers(np.array([0.0371]))
    settings = {"kind": "conv", "stride": [1, 1], "before": [0, 0], "after": [0, 0], "dilation": [1, 1], "groups": 1}
    weight = np.array([[1, -2, 3], [0, 4, -1], [2, -3, 1]], np.int8)[None, None]
    arrays = {"weight": weight, "bias": np.array([17]), "multiplier": mult, "shift": shift}
    x = np.arange(9).reshape(1, 1, 1, 3, 3)
    assert (
        accumulate(Step("accumulate", ("x",), "y", settings, {"weight": weight, "bias": np.array([0])}), x).item() == 14
    )
    assert accumulate(Step("accumulate", ("x",), "y", {**settings, "low": -8, "high": 7}, arrays), x).item() == 1


class TwoInputs(nn.Module):
    """Two inputs, a shared layer, upsampling, tables, a difference, and two outputs of different form."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 4, 3, padding="same"), nn.Conv2d(3, 4, 1, bias=False)
        self.norm, self.shared = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, padding_mode="zeros")
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        x = F.interpolate(F.hardswish(self.left(x)), scale_factor=2)
        y = self.norm(self.right(y))
        both = self.shared(x) - self.shared(y)
        pooled = F.max_pool2d(F.relu6(both), 2).flatten(2).amax(2)
        return {
            "classes": self.head(pooled),
            "gate": torch.sigmoid(F.avg_pool2d(both, 3, 2, 1, count_include_pad=False)),
        }


class PreActivation(nn.Module):
    """Norm and ReLU in front of every convolution, with a shortcut around them."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])
        self.stem, self.convs = nn.Conv2d(3, 4, 3), nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)])
        self.head = nn.Linear(4 * 9, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs):
            x = x + conv(F.relu(norm(x)))
        return self.head(F.pad(x, (0, 1, 1, 0))[..., ::2, ::2].flatten(1)) * 0.5


def transposed_with_norm() -> nn.Module:
    """The orientation of a transposed layer lies along its second dimension."""
    up = nn.ConvTranspose2d(4, 5, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), up, nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 1))


class ReluAttention(nn.Module):
    """Products of two activations, with ReLU in place of a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        heads = [part(x).view(x.shape[0], x.shape[1], 2, 4).transpose(1, 2) for part in self.parts]
        weights = F.relu(heads[0] @ heads[1].transpose(-2, -1) * 0.5)
        return self.out(torch.matmul(weights, heads[2]).transpose(1, 2).flatten(2))


class SlopesPerChannel(nn.Module):
    """PReLUs of one slope and of one per channel, as layers and as a function, in the middle and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3), nn.Conv2d(4, 3, 1)])
        self.norm, self.slopes, self.one = nn.BatchNorm2d(6), nn.PReLU(6), nn.PReLU()
        self.weight, self.last = nn.Parameter(torch.linspace(-0.5, 1, 4)), nn.PReLU(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slopes(self.norm(self.convs[0](x)))
        x = F.prelu(self.one(self.convs[1](x)), self.weight)
        return self.last(self.convs[2](x))


class PaddedConv(nn.Conv2d):
    """A layer with a forward of its own, as they are written for other paddings."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 0, 1, 0)), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Affine(nn.Module):
    """A product with a matrix, written as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 6) / 2), nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def functions() -> nn.Module:
    """Convolutions and products that are written as functions."""
    first = [PaddedConv(3, 6, 2, bias=False), nn.BatchNorm2d(6), nn.ReLU(), PaddedConv(6, 6, 3, stride=2, groups=2)]
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), Affine())


OWN: dict[str, tuple[Any, tuple[tuple[int, ...], ...]]] = {
    "two_inputs": (TwoInputs, ((2, 4, 4), (3, 8, 8))),
    "pre_activation": (PreActivation, ((3, 7, 7),)),
    "relu_attention": (ReluAttention, ((7, 8),)),
    "slopes_per_channel": (SlopesPerChannel, ((3, 7, 7),)),
    "functions": (functions, ((3, 6, 6),)),
    "transposed_with_norm": (transposed_with_norm, ((3, 5, 5),)),
}
FROM_TABLE = (
    *("residual", "dense_block", "squeeze_excite", "gated_product", "channel_shuffle", "split_sizes", "called_twice"),
    *("slices_of_channels", "depthwise", "depthwise_multiplier", "grouped", "transposed", "flatten_to_linear"),
    *("pixel_shuffle", "three_dimensions", "dense_autoencoder", "causal", "light_residual"),
)


@pytest.mark.parametrize("name", [*OWN, *FROM_TABLE])
def test_a_network_equals_its_program_everywhere(name: str) -> None:
    for number in range(2):
        torch.manual_seed(number)
        seed = OWN[name][0]() if name in OWN else TOYS[name].seed(torch.float32)
        x = batch(*OWN[name][1]) if name in OWN else TOYS[name].batch(4, torch.float32)
        check(found(seed, x, number, masks=number == 0), x)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: resnet8(width=4), (3, 32, 32)),
        (lambda: ds_cnn(width=8), (1, 49, 10)),
        (lambda: mobilenet_v1(scale=0.25), (3, 96, 96)),
        (lambda: autoencoder(32, 16, 4), (32,)),
    ],
)
def test_networks_of_the_benchmark_equal_their_programs(make: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = batch(shape, size=2)
    check(found(make(), x, 3, train=False), x)
