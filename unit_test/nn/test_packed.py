"""Packed inference: equal to the float layers, small, and imported only when asked for."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from nasopt.errors import ConfigError
from nasopt.nn import BinaryActivation, BinaryConv2d
from nasopt.nn.packed import PackedBinaryConv2d, pack_weights

GEOMETRIES = [
    # in, out, kernel, stride, padding, dilation, height, width
    (64, 8, 3, 1, 1, 1, 7, 5),
    (128, 8, 3, 1, 2, 2, 8, 8),
    (70, 5, 3, 2, 1, 1, 9, 8),
    (3, 4, 1, 2, 0, 1, 8, 8),
    (65, 4, 5, 1, 4, 2, 6, 7),
    (1, 1, 3, 1, 1, 1, 1, 1),
    (10, 3, 3, 3, 0, 1, 10, 10),
    (16, 3, 3, 1, 3, 1, 2, 2),
    (16, 3, (1, 3), (2, 1), (0, 1), (1, 2), 6, 9),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_equal_to_the_float_layers(geometry: tuple[int, ...]) -> None:
    channels, out, kernel, stride, padding, dilation, height, width = geometry
    conv = BinaryConv2d(channels, out, kernel, stride, padding, dilation, bias=channels % 2 == 0)
    x = torch.randn(2, channels, height, width)
    x[0, 0, 0, 0] = 0
    with torch.no_grad():
        wanted = nn.Sequential(BinaryActivation(), conv)(x)
        packed = PackedBinaryConv2d(conv)
        torch.testing.assert_close(packed(x), wanted, rtol=1e-5, atol=1e-5)
        # It takes signs as well as the real values behind them.
        assert torch.equal(packed(BinaryActivation()(x)), packed(x))


def test_one_bit_per_weight() -> None:
    conv = BinaryConv2d(128, 128, 3)
    words = pack_weights(conv.weight)
    assert words.dtype == torch.int64
    assert words.numel() * 64 == conv.weight.numel()
    small, large = io.BytesIO(), io.BytesIO()
    torch.save(PackedBinaryConv2d(conv).state_dict(), small)
    torch.save(conv.state_dict(), large)
    assert large.tell() > 25 * small.tell()


def test_it_loads_what_it_saved() -> None:
    first, second = BinaryConv2d(5, 4, 3), BinaryConv2d(5, 4, 3)
    packed = PackedBinaryConv2d(second)
    packed.load_state_dict(PackedBinaryConv2d(first).state_dict())
    x = torch.randn(1, 5, 4, 4)
    assert torch.equal(packed(x), PackedBinaryConv2d(first)(x))


def test_groups_are_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="groups=2, kernels exist for groups=1"):
        PackedBinaryConv2d(BinaryConv2d(4, 4, 1, groups=2))
