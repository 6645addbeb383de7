"""FlyNet's parts: heads as a searched count, attention, light residuals, quantisation noise."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nasopt import PIT
from nasopt.cost import network_cost
from nasopt.errors import ConfigError
from nasopt.nn import LightResidual, MeanVarianceECA, MultiHeadDepthwise, QuantNoise


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"kernel_size": (3, 5), "dilation": (2, 1)}])
@pytest.mark.parametrize("reduction", ["max", "sum"])
def test_forward_is_a_reduction_over_a_depthwise_convolution(options: dict[str, int], reduction: str) -> None:
    options = {"kernel_size": 3, **options}
    layer = MultiHeadDepthwise(4, 3, **options, reduction=reduction)  # type: ignore[arg-type]
    conv = nn.Conv2d(4, 12, **options, groups=4, bias=False)  # type: ignore[arg-type]
    conv.weight = nn.Parameter(layer.weight.detach().reshape(12, 1, *layer.kernel_size))
    x = torch.randn(2, 4, 9, 8)
    heads = conv(x).unflatten(1, (4, 3))
    torch.testing.assert_close(layer(x), heads.amax(2) if reduction == "max" else heads.sum(2).relu())


def test_one_head_is_a_depthwise_convolution() -> None:
    layer, conv = MultiHeadDepthwise(5, 1, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1, groups=5, bias=False)
    layer.load_state_dict(conv.state_dict())
    x = torch.randn(2, 5, 6, 6)
    assert torch.equal(layer(x), conv(x))


def test_first_heads_are_the_cumulative_maximum() -> None:
    layer, x = MultiHeadDepthwise(4, 5, 3), torch.randn(2, 4, 6, 6)
    nested = layer.answers(x).cummax(2).values
    for count in range(1, 6):
        small = MultiHeadDepthwise(4, count, 3)
        small.weight = nn.Parameter(layer.weight.detach()[:, :count])
        torch.testing.assert_close(nested[:, :, count - 1], small(x))
        torch.testing.assert_close(layer.with_heads(x, (torch.arange(5) < count).float()), small(x))


@pytest.mark.parametrize("alive", [[1, 1, 1], [0, 1, 1], [0, 0, 1]])
def test_gradient_of_a_head_is_the_difference_that_it_makes(alive: list[int]) -> None:
    layer, x = MultiHeadDepthwise(2, 3, 3).double(), torch.randn(2, 2, 6, 6, dtype=torch.float64)
    mask = torch.tensor(alive, dtype=torch.float64).requires_grad_()
    y = layer.with_heads(x, mask)
    arriving = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, mask, arriving)
    for head in range(3):
        outputs = []
        for present in (0, 1):
            changed = mask.detach().clone()
            changed[head] = present
            is_empty = not bool(changed.any())
            outputs.append(torch.zeros_like(y) if is_empty else layer.with_heads(x, changed))
        torch.testing.assert_close(gradient[head], ((outputs[1] - outputs[0]) * arriving).sum())


def test_cost_is_linear_in_heads() -> None:
    # 6 channels, 9 taps, 16 positions
    for heads in range(1, 6):
        model = nn.Sequential(MultiHeadDepthwise(6, heads, 3, padding=1))
        assert network_cost(model, "macs", (6, 4, 4)) == heads * 6 * 9 * 16
        assert network_cost(model, "size", (6, 4, 4)) == heads * 6 * 9
        assert network_cost(model, "ops", (6, 4, 4)) == heads * 6 * 9 * 16 + (heads - 1) * 6 * 16
    cycles = [
        network_cost(nn.Sequential(MultiHeadDepthwise(6, h, 3, padding=1)), "latency:cortex_m4", (6, 4, 4))
        for h in (1, 2, 3)
    ]
    assert cycles[0] < cycles[1] < cycles[2]
    # A norm after a maximum has scale and shift of its own: it cannot be folded.
    model = nn.Sequential(MultiHeadDepthwise(6, 2, 3), nn.BatchNorm2d(6))
    assert network_cost(model, "size", (6, 4, 4)) == 2 * 54 + 12


def test_heads_are_searched_and_shown() -> None:
    layers = [nn.Conv2d(3, 6, 1), MultiHeadDepthwise(6, 4, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1)]
    seed = nn.Sequential(*layers).eval()
    model = PIT(seed, (3, 6, 6), regularizer="macs").eval()
    names = [group.name for group in model.explain().groups if group.searchable for _ in range(group.size)]
    with torch.no_grad():
        model.alpha.copy_(torch.tensor([0.0 if name == "1" and i % 2 else 1 for i, name in enumerate(names)]))
    row = model.arch_summary()["layers"]["1"]
    assert (row["kernel_size"], row["seed_kernel_size"]) == ([2, 3, 3], [4, 3, 3])
    assert "2x3x3 of 4x3x3" in str(model)
    found = model.arch_export()
    layer = found.get_submodule("1")
    assert isinstance(layer, MultiHeadDepthwise)
    assert (layer.heads, tuple(layer.weight.shape)) == (2, (6, 2, 3, 3))
    assert model.get_cost("macs", discrete=True) == 36 * 18 + 16 * 2 * 6 * 9 + 16 * 12
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(found(x), model(x))


def test_fewer_heads_cost_less_in_expectation() -> None:
    seed = nn.Sequential(nn.Conv2d(3, 6, 1), MultiHeadDepthwise(6, 4, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1))
    for metric in ("size", "macs", "latency:cortex_m4"):
        model = PIT(seed, (3, 6, 6), regularizer=metric)
        model.get_cost(metric).backward()
        assert model.alpha.grad is not None
        assert bool((model.alpha.grad > 0).all())


def test_attention_by_hand() -> None:
    layer = MeanVarianceECA(3)
    assert sum(p.numel() for p in layer.parameters()) == 6
    x = torch.randn(2, 4, 5, 5)
    mean, variance = x.mean((2, 3)), x.var((2, 3), unbiased=False)
    answers = torch.zeros(2, 4)
    for channel in range(4):
        for tap in range(3):
            if 0 <= channel + tap - 1 < 4:
                answers[:, channel] += layer.weight[0, 0, tap].detach() * mean[:, channel + tap - 1]
                answers[:, channel] += layer.weight[0, 1, tap].detach() * variance[:, channel + tap - 1]
    torch.testing.assert_close(layer(x), x * answers.sigmoid()[:, :, None, None])
    heads = MeanVarianceECA(3, heads=2)
    heads.load_state_dict(layer.state_dict())
    for temperature in (10.0, 1.0):
        heads.temperature = temperature
        factors = (answers.view(2, 2, 2) / temperature).softmax(2).view(2, 4)
        torch.testing.assert_close(heads(x), x * factors[:, :, None, None])
    # 2 * 3 weights, run over 4 channels
    assert network_cost(nn.Sequential(layer), "size", (4, 5, 5)) == 6
    assert network_cost(nn.Sequential(layer), "macs", (4, 5, 5)) == 24


@pytest.mark.parametrize(("inputs", "outputs"), [(6, 6), (6, 4), (4, 6), (4, 8), (4, 9), (3, 16)])
@pytest.mark.parametrize("stride", [1, 2])
def test_light_residual_by_hand(inputs: int, outputs: int, stride: int) -> None:
    layer, x = LightResidual(inputs, outputs, stride), torch.randn(2, inputs, 7, 7)
    y = layer(x)
    kept = min(inputs, outputs)
    base = x[:, :kept]
    if stride == 2:
        base = F.conv2d(base, layer.down.weight, stride=2, padding=1, groups=kept)  # type: ignore[arg-type]
    assert y.shape == (2, outputs, 7 if stride == 1 else 4, 7 if stride == 1 else 4)
    torch.testing.assert_close(y[:, :kept], base)
    weights = sum(p.numel() for p in layer.parameters())
    missing = max(outputs - inputs, 0)
    heads = math.ceil(missing / inputs)
    source = math.ceil(missing / heads) if missing else 0
    assert weights == 9 * kept * (stride == 2) + 9 * source * heads
    for i in range(missing):
        weight = layer.more.weight[i : i + 1]  # type: ignore[union-attr]
        torch.testing.assert_close(y[:, inputs + i], F.conv2d(base[:, i // heads, None], weight, padding=1)[:, 0])  # type: ignore[arg-type]
    if (inputs, stride) == (outputs, 1):
        assert layer(x) is x


def test_noise_has_the_variance_of_rounding_and_none_in_eval_mode() -> None:
    layer, x = QuantNoise(5), torch.rand(100_000, dtype=torch.float64) * 4
    step = float(x.max() - x.min()) / 4
    noise = layer(x) - x
    assert float(noise.abs().max()) <= step / 2
    assert float(noise.var()) == pytest.approx(step**2 / 12, rel=0.02)
    assert layer.eval()(x) is x
    assert layer.train()(torch.empty(0)).shape == (0,)


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="heads must be at least 1, got 0"):
        MultiHeadDepthwise(4, 0, 3)
    with pytest.raises(ConfigError, match="channels must be at least 1"):
        MultiHeadDepthwise(0, 2, 3)
    with pytest.raises(ConfigError, match="'max' or 'sum'"):
        MultiHeadDepthwise(4, 2, 3, reduction="mean")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be odd, got 4"):
        MeanVarianceECA(4)
    with pytest.raises(ConfigError, match="at least 2, or 0 for a sigmoid"):
        MeanVarianceECA(3, heads=1)
    with pytest.raises(ConfigError, match="out_channels must be at least 1"):
        LightResidual(4, 0)
    with pytest.raises(ConfigError, match="must be odd"):
        LightResidual(4, 6, kernel_size=2)
    with pytest.raises(ConfigError, match="levels must be an int >= 2, got 1"):
        QuantNoise(1)


def test_copies_and_dtypes() -> None:
    x = torch.randn(1, 4, 6, 6)
    for layer in (MultiHeadDepthwise(4, 3, 3), MeanVarianceECA(3, heads=2), LightResidual(4, 7, 2), QuantNoise(8)):
        twin = copy.deepcopy(layer).eval()
        twin.load_state_dict(layer.state_dict())
        assert torch.equal(twin(x), layer.eval()(x))
        assert layer.double()(x.double()).dtype == torch.float64
