"""Binary layers: forward and backward rules, conversion, cost."""

from __future__ import annotations

import warnings
from typing import Literal

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nasopt
from nasopt.errors import ConfigError
from nasopt.nn import Align2d, BinaryActivation, BinaryConv2d, CellPool2d, TwinConv2d


def test_activation_is_a_sign_and_zero_is_positive() -> None:
    x = torch.tensor([-2.0, -1.0, -1e-30, -0.0, 0.0, 1e-30, 3.0])
    assert BinaryActivation()(x).tolist() == [-1, -1, -1, 1, 1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_slope_of_the_activation(dtype: torch.dtype) -> None:
    # 2 + 2x on [-1, 0), 2 - 2x on [0, 1), else 0
    x = torch.tensor([-1.5, -1.0, -0.75, -0.25, 0.0, 0.25, 0.75, 1.0, 1.5], dtype=dtype, requires_grad=True)
    y = BinaryActivation()(x)
    y.sum().backward()
    assert y.dtype == dtype
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 0.5, 1.5, 2, 1.5, 0.5, 0, 0]


def test_activation_passes_the_gradient_that_arrives_through_its_slope() -> None:
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    arriving = torch.randn(5, 7, dtype=torch.float64)
    BinaryActivation()(x).backward(arriving)
    a = x.detach()
    slope = torch.where((a >= -1) & (a < 0), 2 + 2 * a, torch.where((a >= 0) & (a < 1), 2 - 2 * a, 0.0))
    torch.testing.assert_close(x.grad, arriving * slope)


@pytest.mark.parametrize("seed", range(5))
def test_convolution_forward_and_backward(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    groups, stride, dilation = (1, 2, 4)[seed % 3], seed % 2 + 1, seed % 2 + 1
    layer = BinaryConv2d(8, 12, 3, stride, padding=1, dilation=dilation, groups=groups, bias=seed > 2).double()
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = layer.weight.detach()
    scale = weight.abs().mean()
    binary = (scale * torch.where(weight >= 0, 1.0, -1.0).double()).requires_grad_()
    x2 = x.detach().clone().requires_grad_()
    wanted = F.conv2d(x2, binary, layer.bias, stride, 1, dilation, groups)
    found = layer(x)
    torch.testing.assert_close(found, wanted)
    arriving = torch.randn(found.shape, dtype=torch.float64, generator=generator)
    found.backward(arriving)
    wanted.backward(arriving)
    assert layer.weight.grad is not None
    assert binary.grad is not None
    torch.testing.assert_close(layer.weight.grad, binary.grad * scale)
    torch.testing.assert_close(x.grad, x2.grad)


def test_weights_take_two_values_only() -> None:
    layer = BinaryConv2d(3, 4, 3)
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = 0
        seen = layer(torch.eye(3).reshape(3, 3, 1, 1).repeat(1, 1, 3, 3))
    assert seen.shape == (3, 4, 1, 1)
    ones = torch.zeros(1, 3, 3, 3)
    ones[0, 0, 0, 0] = 1
    assert float(layer(ones).detach()[0, 0]) == pytest.approx(float(layer.weight.detach().abs().mean()))


def test_from_conv_keeps_weights_and_geometry() -> None:
    conv = nn.Conv2d(4, 6, (3, 5), 2, "valid", groups=2)
    layer = BinaryConv2d.from_conv(conv)
    assert torch.equal(layer.weight, conv.weight)
    assert layer.weight is not conv.weight
    assert layer(torch.zeros(1, 4, 9, 9)).shape == conv(torch.zeros(1, 4, 9, 9)).shape
    same = BinaryConv2d.from_conv(nn.Conv2d(4, 6, 3, padding="same", dilation=2), bias=False)
    assert same.padding == (2, 2)
    assert same.bias is None


def test_what_cannot_be_binarised_says_why() -> None:
    with pytest.raises(ConfigError, match="padding_mode='circular'"):
        BinaryConv2d.from_conv(nn.Conv2d(1, 1, 3, padding_mode="circular"))
    with pytest.raises(ConfigError, match="odd kernel"):
        BinaryConv2d.from_conv(nn.Conv2d(1, 1, 2, padding="same"))
    with pytest.raises(ConfigError, match="groups=2"):
        BinaryConv2d(3, 4, 1, groups=2)
    with pytest.raises(ConfigError, match="'max' or 'average'"):
        CellPool2d("min")  # type: ignore[arg-type]


def cost(model: nn.Module, metric: str, shape: tuple[int, ...]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nasopt.errors.NoEffectWarning)
        return nasopt.PIT(model, shape).get_cost(metric, discrete=True)


def test_bits_are_in_every_cost() -> None:
    signed = nn.Sequential(BinaryActivation(), BinaryConv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32))
    # 16 * 32 * 9 = 4,608 weights of one bit; scale and shift of the norm for 32 channels, 32 bit each
    assert cost(signed, "size", (16, 4, 4)) == 4608 + 64
    assert cost(signed, "size_bits", (16, 4, 4)) == 4608 + 64 * 32
    assert cost(signed, "macs", (16, 4, 4)) == 4608 * 16
    assert cost(signed, "ops", (16, 4, 4)) == 4608 * 16 / 64
    # Real activations are multiplied, whatever the weights.
    real = nn.Sequential(BinaryConv2d(16, 32, 3, padding=1, bias=True))
    assert cost(real, "ops", (16, 4, 4)) == 4608 * 16
    assert cost(real, "size_bits", (16, 4, 4)) == 4608 + 32 * 32


def test_a_pooling_that_a_search_added_has_a_price_and_a_seeds_own_has_none() -> None:
    assert cost(nn.Sequential(nn.Conv2d(2, 4, 1), CellPool2d("max")), "ops", (2, 8, 8)) == 8 * 64 + 8 * 4 * 64
    assert cost(nn.Sequential(nn.Conv2d(2, 4, 1), nn.MaxPool2d(3, 1, 1)), "ops", (2, 8, 8)) == 8 * 64
    assert cost(nn.Sequential(nn.Conv2d(2, 4, 1), CellPool2d("average")), "macs", (2, 8, 8)) == 8 * 64


def test_a_binary_layer_between_searchable_ones_stays_whole() -> None:
    seed = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), BinaryActivation(), BinaryConv2d(8, 8, 3, padding=1)),
        *(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 1)),
    )
    model = nasopt.PIT(seed, (3, 6, 6), exclude_names=[])
    with torch.no_grad():
        model.alpha.zero_()
    small = model.arch_export()
    assert isinstance(small.get_submodule("3"), BinaryConv2d)
    assert small.get_submodule("3").weight.shape == (8, 8, 3, 3)
    assert small.get_submodule("6").weight.shape[0] == 1  # type: ignore[union-attr]


def test_align_averages_repeats_and_drops() -> None:
    x = torch.arange(8.0).reshape(1, 2, 2, 2)
    more = Align2d(5, (1, 1))(x)
    assert more.reshape(-1).tolist() == [1.5, 5.5, 1.5, 5.5, 1.5]
    assert torch.equal(Align2d(1, (2, 2))(x), x[:, :1])
    assert Align2d(2, (2, 2))(x) is x


def test_pooling_at_the_border_takes_what_is_inside() -> None:
    x = -torch.ones(1, 1, 4, 4)
    assert torch.equal(CellPool2d("max")(x), x)
    assert torch.equal(CellPool2d("average")(x), x)


@pytest.mark.parametrize("kind", ["max", "average"])
def test_pooling_in_training_is_torchs_own(kind: Literal["max", "average"]) -> None:
    pool = CellPool2d(kind)
    for shape in ((2, 3, 5, 7), (1, 4, 1, 1)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        arriving = torch.randn(shape, dtype=torch.float64)
        quick, plain = pool.train()(x), pool.eval()(x)
        torch.testing.assert_close(quick, plain)
        torch.testing.assert_close(torch.autograd.grad(quick, x, arriving), torch.autograd.grad(plain, x, arriving))


@pytest.mark.parametrize(("size", "groups"), [((8, 12), 1), ((6, 6), 2), ((7, 8), 1)])
def test_large_dilated_convolution_in_training(size: tuple[int, int], groups: int) -> None:
    layer = BinaryConv2d(4, 6, 5, padding=4, dilation=2, groups=groups, bias=True).double()
    x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    arriving = torch.randn(2, 6, *size, dtype=torch.float64)
    assert layer._has_phases(x) == (size != (7, 8))
    quick, plain = layer.train()(x), layer.eval()(x)
    torch.testing.assert_close(quick, plain)
    leaves = (x, *layer.parameters())
    for a, b in zip(torch.autograd.grad(quick, leaves, arriving), torch.autograd.grad(plain, leaves, arriving)):
        torch.testing.assert_close(a, b)


def test_twin_rectifies() -> None:
    twin = TwinConv2d(2, 3, 1)
    x = torch.randn(2, 2, 3, 3)
    assert torch.equal(twin(x), F.relu(F.conv2d(x, twin.weight, twin.bias)))
