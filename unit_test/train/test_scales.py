"""Scales of layers, channels and kernels: the best ones, rounded, their price, and layers that train with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from nasopt import PIT
from nasopt.cost import network_cost
from nasopt.errors import ConfigError
from nasopt.train import AngleRegularizer, ScaledLevels
from nasopt.train.angle import Granularity, angle_loss, groups_of

GRANULARITIES: tuple[Granularity, ...] = ("layer", "channel", "kernel")


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_scale_leaves_what_the_angle_says(bits: int, granularity: Granularity) -> None:
    # |v - s q|^2 / |v|^2 = 1 - cos^2(v, q) holds for the best s only.
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    copy = ScaledLevels(bits, granularity)(weight)
    v, q = groups_of(weight, granularity), groups_of(copy, granularity)
    error = (v - q).square().sum(1) / v.square().sum(1)
    torch.testing.assert_close(error, 1 - (1 - angle_loss(v, q)) ** 2)
    assert all(len(row.abs().unique()) <= max(2 ** (bits - 1), 1) for row in q.round(decimals=9))


def test_finer_scales_fit_better() -> None:
    weight = torch.randn(8, 4, 3, 3) * torch.rand(8, 4, 1, 1)
    errors = [float((weight - ScaledLevels(1, one)(weight)).square().sum()) for one in GRANULARITIES]
    assert errors[0] > errors[1] > errors[2]


def test_rounded_scales_are_multiples_of_one_step() -> None:
    weight = torch.randn(6, 5, 3, 3, dtype=torch.float64)
    copy = ScaledLevels(1, "kernel", 4)(weight)
    exact = ScaledLevels(1, "kernel")(weight)
    scales, wanted = copy.abs()[..., 0, 0], exact.abs()[..., 0, 0]
    step = wanted.max() / 15
    torch.testing.assert_close(scales / step, (wanted / step).round())
    assert torch.equal(copy.sign(), torch.where(weight >= 0, 1.0, -1.0).double() * (scales > 0)[..., None, None])


def test_bits_and_products() -> None:
    levels = ScaledLevels(1, "kernel", 9)
    assert levels.bits_per_weight((64, 32, 3, 3)) == 2.0
    # Kernels of one tap share the scale of their channel: 32 weights each.
    assert levels.bits_per_weight((64, 32, 1, 1)) == levels.bits_per_weight((64, 32)) == 1 + 9 / 32
    assert ScaledLevels(2, "layer").bits_per_weight((4, 2, 5, 5)) == 2 + 32 / 200
    products = [
        levels.products_per_position(shape) for shape in ((64, 32, 3, 3), (64, 1, 3, 3), (64, 32, 1, 1), (8, 4))
    ]
    assert products == [64 * 32, 0, 0, 0]
    assert ScaledLevels(1, "channel", 9).products_per_position((64, 32, 3, 3)) == 0


def test_a_layer_trains_with_it_and_is_searched() -> None:
    torch.manual_seed(0)
    seed = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten())
    seed.append(nn.Linear(16, 2))
    levels = ScaledLevels(1, "kernel", 9)
    parametrize.register_parametrization(seed[3], "weight", levels)
    angle = AngleRegularizer(nn.Conv2d(6, 4, 3), levels, "kernel")
    assert 0 < float(angle.value().detach()) < 1
    search = PIT(seed, (1, 6, 6), regularizer="size")
    (search(torch.randn(2, 1, 6, 6)).sum() + search.get_regularization_loss()).backward()
    with torch.no_grad():
        search.alpha[:2] = 0.0
    found = search.eval().arch_export()
    x = torch.randn(2, 1, 6, 6)
    torch.testing.assert_close(found(x), search(x))
    assert network_cost(found, "size", (1, 6, 6)) < network_cost(seed, "size", (1, 6, 6))
    held = found.get_parameter("3.weight").detach()
    assert all(len(kernel.abs().unique()) == 1 for kernel in held.flatten(0, 1).round(decimals=6))


def test_zeros_and_bad_input() -> None:
    assert torch.equal(ScaledLevels(2, "kernel", 3)(torch.zeros(2, 2, 3, 3)), torch.zeros(2, 2, 3, 3))
    for options, message in (
        ({"granularity": "row"}, "channel, kernel or layer, got 'row'"),
        ({"bits": 0}, "bits must be an int from 1 to 8, got 0"),
        ({"bits": 2.0}, r"got 2\.0"),
        ({"scale_bits": 17}, "scale_bits must be an int from 1 to 16, got 17"),
        ({"scale_bits": True}, "got True"),
    ):
        with pytest.raises(ConfigError, match=message):
            ScaledLevels(**options)  # type: ignore[arg-type]
