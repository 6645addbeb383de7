"""Piecewise approximation: levels, gradients, the identity with AND and population count, memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))

from nasb_seeds import torchvision_models

import nasopt
from nasopt import PIT
from nasopt.cost import network_cost
from nasopt.errors import ConfigError, ExportError
from nasopt.graph.edit import put_module
from nasopt.methods.nasb import pack
from nasopt.nn import PAActivation, PAConv2d
from nasopt.nn.packed_piecewise import PackedPAConv2d

GEOMETRIES = [
    # in, out, kernel, stride, padding, dilation, height, width
    (64, 4, 3, 1, 1, 1, 7, 5),
    (70, 3, 3, 2, 1, 1, 9, 8),
    (3, 4, 1, 2, 0, 1, 8, 8),
    (65, 2, 5, 1, 4, 2, 6, 7),
    (1, 1, 3, 1, 1, 1, 1, 1),
    (16, 3, (1, 3), (2, 1), (0, 1), (1, 2), 6, 9),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("m", "n"), [(8, 4), (4, 2)])
def test_a_convolution_is_a_sum_of_binary_ones(geometry: Any, m: int, n: int) -> None:
    channels, out, kernel, stride, padding, dilation, height, width = geometry
    conv = PAConv2d(channels, out, kernel, stride, padding, dilation, bias=channels % 2 == 0, levels=m)
    activation, x = PAActivation(n), torch.randn(2, channels, height, width)
    sizes: Any = (conv.stride, conv.padding, conv.dilation)
    with torch.no_grad():
        a = activation(x)
        wanted = conv(a)
        alpha, bases = conv.bases()
        assert torch.allclose((alpha.view(-1, 1, 1, 1, 1) * bases).sum(0), conv.approximated_weight(), atol=1e-6)
        found = torch.zeros_like(wanted) if conv.bias is None else conv.bias.view(1, -1, 1, 1).expand_as(wanted)
        for i in range(m):
            for beta in activation.values:
                found = found + alpha[i] * beta * F.conv2d((a == beta).float(), bases[i].float(), None, *sizes)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(PackedPAConv2d(conv, activation)(a), wanted, rtol=1e-6, atol=1e-5)


def test_levels_are_means_and_zero() -> None:
    """`[0, 0, 0, 0, -4, 4]`: deviation sqrt(32 / 6) = 2.31, so with endpoints at one deviation the pieces are -4, 0 and 4."""
    conv = PAConv2d(6, 1, 1, levels=(-1.0, 1.0))
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([0.1, -0.1, 0.2, -0.2, -4.0, 4.0]).view(1, 6, 1, 1))
    assert conv.approximated_weight().flatten().tolist() == [0, 0, 0, 0, -4, 4]


def test_relative_error_on_normal_weights() -> None:
    torch.manual_seed(0)
    conv = PAConv2d(100, 100, 5, levels=8)
    nn.init.normal_(conv.weight)
    error = (conv.approximated_weight() - conv.weight).square().mean().item()
    assert error == pytest.approx(0.035, rel=0.05)  # between 3 bits, 0.041, and 4 bits, 0.012


def test_gradients_of_activations_are_those_of_a_smeared_staircase() -> None:
    """v = 1, 2, 4 and beta = 1, 3, 4: segments [0.5, 1.5], [1.5, 3], [3, 5] with slopes 1, 2 / 1.5, 1 / 2."""
    layer = PAActivation(3)
    with torch.no_grad():
        layer.thresholds.copy_(torch.tensor([1.0, 2.0, 4.0]))
        layer.values.copy_(torch.tensor([1.0, 3.0, 4.0]))
    x = torch.tensor([0.4, 0.6, 1.2, 2.5, 3.5, 4.5, 6.0], requires_grad=True)
    y = layer(x)
    assert y.tolist() == [0, 0, 1, 3, 3, 4, 4]
    upstream = torch.arange(1.0, 8.0)
    y.backward(upstream)
    assert torch.allclose(x.grad, upstream * torch.tensor([0, 1, 1, 2 / 1.5, 1 / 2, 1 / 2, 0]))
    assert torch.allclose(layer.values.grad, torch.tensor([3.0, 4 + 5, 6 + 7]))
    assert torch.allclose(layer.thresholds.grad, -torch.tensor([2.0 + 3, 4 * 2 / 1.5, (5 + 6) / 2]))


def test_a_higher_threshold_lowers_the_output() -> None:
    x = torch.linspace(-1, 4, 20_001)
    for one in range(3):
        layer = PAActivation(3)
        layer(x).sum().backward()
        gradient = layer.thresholds.grad[one].item()
        with torch.no_grad():
            before = layer(x).sum()
            layer.thresholds[one] += 0.05
            change = (layer(x).sum() - before).item() / 0.05
        assert gradient < 0
        assert gradient == pytest.approx(change, rel=0.05)


def test_gradients_of_weights_are_about_one() -> None:
    conv = PAConv2d(50, 50, 3, levels=8)
    nn.init.normal_(conv.weight)
    conv.approximated_weight().sum().backward()
    assert conv.weight.grad is not None
    assert 0.5 < conv.weight.grad.min().item() < 1 < conv.weight.grad.max().item() < 2
    equal = PAConv2d(2, 2, 1)
    nn.init.constant_(equal.weight, 0.5)  # no deviation: all endpoints are 0
    equal.approximated_weight().sum().backward()
    assert torch.equal(equal.weight.grad, torch.zeros_like(equal.weight))


def test_nan_stays_nan() -> None:
    x = torch.tensor([float("nan"), 1.0])
    assert PAActivation(2)(x).isnan().tolist() == [True, False]
    conv = PAConv2d(2, 1, 1)
    with torch.no_grad():
        conv.weight[0, 0] = float("nan")
    assert bool(conv(torch.ones(1, 2, 1, 1)).isnan())


def network(levels: int = 4) -> nn.Module:
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), PAActivation(3)]
    second = [PAConv2d(8, 8, 3, padding=1, levels=levels), nn.BatchNorm2d(8), PAActivation(2)]
    third = [PAConv2d(8, 8, 1, groups=2, levels=levels), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*first, *second, *third, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def test_what_it_costs() -> None:
    # First layer with its norm 216 + 8 weights of 32 bits, 576 + 32 of 4, two norms of 16 parameters that stay, thresholds
    # and values of three and of two levels, 27 in the end
    wanted = 32 * (216 + 8) + 4 * (576 + 32) + 32 * (2 * 16 + 2 * (3 + 2) + 27)
    assert network_cost(network(), "size_bits", (3, 6, 6)) == wanted
    # M N passes per product: 4 * 3 over 576 * 36, and 4 * 2 over 32 * 36
    dense = 32 * 32 * (216 * 36 + 24)
    assert network_cost(network(), "bit_ops", (3, 6, 6)) == dense + 12 * 576 * 36 + 8 * 32 * 36


def test_memory_of_the_source() -> None:
    """Four bits for all convolutions but the first, floats for the rest."""
    with torch.device("meta"):
        model = torchvision_models().resnet50()
    bits = 32 * sum(p.numel() for p in model.parameters())
    for layer in list(model.modules())[2:]:
        if isinstance(layer, nn.Conv2d):
            bits -= (32 - len(PAConv2d(1, 1, 1, levels=4).endpoints)) * layer.weight.numel()
    assert bits / 1e6 == pytest.approx(161.35, abs=0.005)


def test_memory_by_the_cost_model() -> None:
    model = torchvision_models().resnet18()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Conv2d) and name != "conv1":
            put_module(model, name, PAConv2d.from_conv(layer, 4))
    assert network_cost(model, "size_bits", (3, 32, 32)) / 1e6 == pytest.approx(61.65, abs=0.005)


def test_searched_around_and_packed() -> None:
    x = torch.randn(2, 3, 6, 6)
    model = PIT(network(), (3, 6, 6))
    model.train()(x).sum().backward()
    found = model.arch_export().eval()
    packed = pack(found)
    assert [type(layer).__name__ for layer in packed.modules()].count("PackedPAConv2d") == 1  # the other one has groups
    with torch.no_grad():
        torch.testing.assert_close(packed(x), found(x), rtol=1e-5, atol=1e-5)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"levels must be 2, 4, 8, or .*got 3"):
        PAConv2d(2, 2, 1, levels=3)
    for levels in ((-1.0, 1.0, 2.0), (1.0, -1.0), (0.5, 1.0), ()):
        with pytest.raises(ConfigError, match=r"in ascending"):
            PAConv2d(2, 2, 1, levels=levels)
    with pytest.raises(ConfigError, match=r"levels must be at least 1, got 0"):
        PAActivation(0)
    with pytest.raises(ConfigError, match=r"groups=2, kernels exist for groups=1"):
        PackedPAConv2d(PAConv2d(2, 2, 1, groups=2), PAActivation(2))
    with pytest.raises(ExportError, match=r"levels are not evenly spaced"):
        nasopt.export.to_onnx(network(), tmp_path / "x.onnx", example=torch.randn(1, 3, 6, 6))
    with pytest.raises(ConfigError, match=r"a PAConv2d behind a PAActivation"):
        pack(network())
