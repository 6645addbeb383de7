"""Quantised layers: ranges, steps and gradients against numbers that were derived by hand or elsewhere."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nasopt.errors import ConfigError
from nasopt.nn.grids import activation_range, best_step, check_widths, weight_range
from nasopt.nn.quantise import Quantise
from nasopt.nn.quantised import QuantConv2d, QuantLinear
from nasopt.nn.weight_quantizers import angle_levels, angle_step, dorefa
from nasopt.ste import quantise, quantise_mixture

WEIGHTS = torch.tensor([-1, -0.62, -0.31, -0.05, 0, 0.05, 0.3, 0.5, 0.8, 1.0], dtype=torch.float64)
FRACTIONS = torch.linspace(0.02, 1, 400)


def become(layer: nn.Module, kind: type, widths: tuple[int, ...]) -> object:
    made = kind.__new__(kind)
    made.__dict__.update(vars(layer))
    made.quantise_weights(widths)
    return made


def test_ranges() -> None:
    assert [weight_range(bits) for bits in (8, 4, 3, 2)] == [(-127, 127), (-7, 7), (-3, 3), (-2, 1)]
    assert activation_range(4, signed=False) == (0, 15)
    assert activation_range(4, signed=True) == (-8, 7)


@pytest.mark.parametrize(
    ("bits", "integers"),
    [
        (8, (-127, -79, -39, -6, 0, 6, 38, 64, 102, 127)),
        (4, (-7, -4, -2, 0, 0, 0, 2, 4, 6, 7)),
        (3, (-3, -2, -1, 0, 0, 0, 1, 2, 2, 3)),
    ],
)
def test_integers_of_weights(bits: int, integers: tuple[int, ...]) -> None:
    low, high = weight_range(bits)
    step = WEIGHTS.abs().max() / high
    assert torch.equal((quantise(WEIGHTS, step, low, high) / step).round(), torch.tensor(integers, dtype=torch.float64))


def test_two_bits_are_stored_in_the_orientation_of_the_norm() -> None:
    step = torch.tensor(0.5, dtype=torch.float64)
    up = (quantise(WEIGHTS, step, -2, 1) / step).round()
    down = (quantise(-WEIGHTS, step, -2, 1) / step).round()
    assert up.tolist() == [-2, -1, -1, 0, 0, 0, 1, 1, 1, 1]
    assert down.tolist() == [1, 1, 1, 0, 0, 0, -1, -1, -2, -2]


def test_gradients_of_a_learned_step() -> None:
    x = torch.tensor([-2, -0.9, -0.2, 0.1, 0.45, 1.3], dtype=torch.float64, requires_grad=True)
    log_step = torch.tensor(math.log2(0.4), dtype=torch.float64, requires_grad=True)
    step = torch.exp2(log_step)
    step.retain_grad()
    y = quantise(x, step, -3, 3)
    # -0.2 / 0.4 is a tie (to even: 0), 0.45 / 0.4 rounds to 1, the ends are clipped.
    assert torch.allclose(y / 0.4, torch.tensor([-3, -2, 0, 0, 1, 3], dtype=torch.float64))
    y.backward(torch.arange(1, 7, dtype=torch.float64))
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 0]
    # 1 (-3) + 2 (-2 + 2.25) + 3 (0 + .5) + 4 (0 - .25) + 5 (1 - 1.125) + 6 * 3
    assert float(step.grad) == pytest.approx(15.375)
    assert float(log_step.grad) == pytest.approx(15.375 * 0.4 * math.log(2))  # 4.262855


def test_activations_round_ties_up() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5], dtype=torch.float64)
    assert quantise(x, torch.tensor(1.0, dtype=torch.float64), -8, 7, half_up=True).tolist() == [1, 2, 3, 0, -1]


# Step / sigma and squared error / variance of the best grid for Gaussian values.
@pytest.mark.parametrize(
    ("low", "high", "step", "error"),
    [
        (-1, 1, 1.224, 0.190),
        (-2, 1, 1.049, 0.149),
        (-3, 3, 0.650, 0.0469),
        (-7, 7, 0.353, 0.0129),
        (-31, 31, 0.105, 1.07e-3),
    ],
)
def test_steps_of_gaussian_values(low: int, high: int, step: float, error: float) -> None:
    x = torch.special.ndtri((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)
    found = best_step(x[None], low, high, FRACTIONS)
    rounded = (x / found).clamp(low, high).round() * found
    assert float((rounded - x).square().mean()) == pytest.approx(error, rel=0.03)
    assert float(found) == pytest.approx(step, rel=0.05)


def test_a_channel_of_zeros() -> None:
    layer = become(nn.Linear(3, 2, bias=False), QuantLinear, (4,))
    with torch.no_grad():
        layer.weight[1] = 0
    layer.fit_steps()
    assert layer.integer_weight()[1].tolist() == [0, 0, 0]
    layer(torch.randn(2, 3)).sum().backward()
    assert float(layer.weight_log_steps.grad[0, 1]) == 0
    assert bool(torch.isfinite(layer.weight.grad).all())


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_weights_lie_on_their_grid(bits: int) -> None:
    layer = become(nn.Conv2d(4, 6, 3).double(), QuantConv2d, (bits,))
    weight = layer.quantised_weight().detach()
    levels = weight / layer.weight_step().reshape(-1, 1, 1, 1)
    assert torch.allclose(levels, levels.round(), atol=1e-9)
    assert torch.equal(levels.round().long(), layer.integer_weight())
    low, high = weight_range(bits)
    assert low <= int(levels.round().min())
    assert int(levels.round().max()) <= high
    again = become(nn.Conv2d(4, 6, 3).double(), QuantConv2d, (bits,))
    with torch.no_grad():
        again.weight.copy_(weight)
        again.weight_log_steps.copy_(layer.weight_log_steps)
    assert torch.allclose(again.quantised_weight(), weight)
    mask = torch.ones(1, 4, 1, 1, dtype=torch.float64)
    mask[:, 2] = 0
    assert float(layer.quantised_weight(mask=mask)[:, 2].detach().abs().max()) == 0


def test_a_mixture_with_one_width_is_that_width() -> None:
    torch.manual_seed(0)
    layer = become(nn.Conv2d(3, 5, 3).double(), QuantConv2d, (2, 4, 8))
    one = torch.ones((), dtype=torch.float64)
    for width, bits in enumerate(layer.widths):
        alone = become(nn.Conv2d(3, 5, 3).double(), QuantConv2d, (bits,))
        with torch.no_grad():
            alone.weight.copy_(layer.weight)
        alone.fit_steps()
        wanted, found = alone.quantised_weight(), layer.quantised_weight([(width, one)])
        assert torch.equal(wanted, found)
        direction = torch.randn_like(wanted)
        left = torch.autograd.grad((wanted * direction).sum(), [alone.weight, alone.weight_log_steps])
        right = torch.autograd.grad((found * direction).sum(), [layer.weight, layer.weight_log_steps])
        assert torch.equal(left[0], right[0])
        assert torch.equal(left[1][0], right[1][width])


def test_a_point_keeps_half_precision_exact() -> None:
    point = Quantise((8,), signed=False)
    values = torch.rand(1000)
    point.calibrate(values)
    wanted = point(values.bfloat16().float())
    assert torch.equal(point(values.bfloat16()), wanted.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(point(values.bfloat16()), wanted)


def test_apsq_by_hand() -> None:
    # 3 bits: levels R(3 v) of v = (-1, .5, .2, 0): (-3, 2, 1, 0), ties to even; <v, q> / <q, q> = 4.2 / 14.
    rows = torch.tensor([[-1.0, 0.5, 0.2, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    assert angle_levels(rows, 3).tolist() == [[-3, 2, 1, 0], [0, 0, 0, 0]]
    assert angle_step(rows, 3).tolist() == pytest.approx([0.3, 2.0**-20])
    # 1 bit: the signs, times the mean of the sizes.
    assert float(angle_step(rows, 1)[0]) == pytest.approx(1.7 / 4)
    # What is left is 1 - cos^2.
    levels, step = angle_levels(rows, 3)[0], angle_step(rows, 3)[0]
    left = (levels * step - rows[0]).square().sum() / rows[0].square().sum()
    cosine = torch.nn.functional.cosine_similarity(levels, rows[0], dim=0)
    assert float(left) == pytest.approx(float(1 - cosine.square()))


def test_dorefa_by_hand() -> None:
    # tanh(artanh(y)) = y; largest .8: places y/1.6 + .5 = (0, .5, .8125, 1), in thirds (0, 2, 2, 3): ties to even.
    values = torch.tensor([-0.8, 0.0, 0.5, 0.8], dtype=torch.float64)
    weight = values.atanh().requires_grad_()
    rounded = dorefa(weight, 2)
    assert rounded.tolist() == pytest.approx([-1, 1 / 3, 1 / 3, 1])
    rounded.sum().backward()
    torch.testing.assert_close(weight.grad, 2 * (1 - values.square()) / 1.6)


def test_pact_learns_from_what_is_clipped() -> None:
    x = torch.tensor([-0.5, 0.3, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    step = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    up = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    (quantise(x, step, 0, 3, clipped_only=True) * up).sum().backward()
    # alpha = 3 s = .6: its gradient is 4, of the one value above, so that of s is 12.
    assert float(step.grad) == pytest.approx(12)
    assert x.grad.tolist() == [0, 2, 3, 0]
    per_channel = torch.full((1, 1), 0.2, dtype=torch.float64, requires_grad=True)
    (quantise(x.detach().expand(2, 4), per_channel.expand(2, 1), 0, 3, clipped_only=True) * up).sum().backward()
    assert float(per_channel.grad) == pytest.approx(24)


@pytest.mark.parametrize("widths", [(), (9,), (4, 4), (0,), (True,), (2.5,)])
def test_widths_that_no_quantizer_has(widths: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"no quantizer has|at least one width"):
        check_widths(widths, "weights")


@pytest.mark.parametrize("width", [(8,), (4, 8)])
def test_a_step_never_falls_to_nothing(width: tuple[int, ...]) -> None:
    """Where training diverges, logarithms of steps fall without end; the next steps still have finite gradients."""
    point = Quantise(width)
    with torch.no_grad():
        point.log_steps.fill_(-1e4)
    x = torch.randn(2, 3, requires_grad=True)
    shares = [(i, torch.tensor(1 / len(width))) for i in range(len(width))]
    out = point.run(x, active=shares) if len(width) > 1 else point(x)
    out.square().sum().backward()
    assert float(point.step().detach()) > 0
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


@pytest.mark.parametrize("grids", [1, 2])
def test_where_channels_lie_in_memory_makes_no_difference(grids: int) -> None:
    values, slope = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        x = values.clone(memory_format=layout).requires_grad_()
        steps = torch.tensor([0.1, 0.2][:grids], dtype=torch.float64, requires_grad=True)
        shares = torch.tensor([0.3, 0.7], dtype=torch.float64)
        one = quantise(x, steps, 0, 15, half_up=True) if grids == 1 else None
        y = quantise_mixture(x, steps, shares, ((0, 15), (-8, 7)), (0.1, 0.2)) if one is None else one
        y.backward(slope)
        assert x.grad is not None
        assert x.grad.is_contiguous(memory_format=layout)
        found.append((y.detach(), x.grad, steps.grad))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
