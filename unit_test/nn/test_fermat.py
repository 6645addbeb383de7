"""Fermat number transform: arithmetic over all residues, transforms, and convolutions equal bit for bit to direct ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nasopt.cost.fermat import direct_ops, transform_ops
from nasopt.errors import ConfigError
from nasopt.graph.layer_shape import LayerShape
from nasopt.nn.fermat import FermatRing, fermat_conv2d


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_arithmetic_over_all_residues(bits: int) -> None:
    ring = FermatRing(bits)
    modulus = 2**bits + 1
    values = np.arange(modulus)
    codes = ring.encode(values)
    assert sorted(codes.tolist()) == list(range(modulus))
    assert np.array_equal(ring.decode(codes) % modulus, values)
    x, y = codes[:, None], codes[None, :]
    a, b = values[:, None], values[None, :]
    for found, wanted in (
        (ring.add(x, y), a + b),
        (ring.subtract(x, y), a - b),
        (ring.multiply(x, y), a * b),
        (ring.negate(codes), -values),
        *((ring.shift(codes, count), values * pow(2, count, modulus)) for count in range(-2 * bits - 1, 4 * bits + 2)),
    ):
        assert np.array_equal(ring.decode(found) % modulus, wanted % modulus)


def test_corners_of_the_large_ring() -> None:
    ring = FermatRing(32)
    modulus = 2**32 + 1
    values = [0, 1, 2, 2**16, 2**31, 2**32 - 1, 2**32, 2**31 + 1, 2**32 - 2]
    codes = ring.encode(np.array(values))
    found = ring.decode(ring.multiply(codes[:, None], codes[None, :])) % modulus
    assert found.tolist() == [[a * b % modulus for b in values] for a in values]


@pytest.mark.parametrize(("bits", "length"), [(4, 8), (8, 16), (32, 64), (32, 16), (32, 1)])
def test_transform_and_back(bits: int, length: int) -> None:
    ring = FermatRing(bits)
    values = np.random.default_rng(0).integers(0, 2**bits, (3, length))
    codes = ring.encode(values)
    assert np.array_equal(ring.decode(ring.transform(ring.transform(codes), inverse=True)), ring.decode(codes))
    root = pow(2, 2 * bits // length, ring.modulus)
    wanted = [sum(int(v) * pow(root, i * k, ring.modulus) for i, v in enumerate(values[0])) for k in range(length)]
    assert (ring.decode(ring.transform(codes))[0] % ring.modulus).tolist() == [w % ring.modulus for w in wanted]


@pytest.mark.parametrize("kernel", range(1, 12))
def test_convolution_is_exact(kernel: int) -> None:
    generator = np.random.default_rng(kernel)
    x = generator.integers(-128, 128, (2, 3, 13, 16))
    weight = generator.integers(-128, 128, (4, 3, kernel, kernel))
    padding = kernel // 2
    found = fermat_conv2d(x, weight, padding)
    wanted = F.conv2d(torch.from_numpy(x).double(), torch.from_numpy(weight).double(), padding=padding)
    assert np.array_equal(found, wanted.long().numpy())


def test_extreme_values() -> None:
    # The largest sum that the ring holds, and the first one beyond.
    weight = np.full((1, 1, 1, 1), 2**16)
    for value in (2**15, -(2**15)):
        assert fermat_conv2d(np.full((1, 1, 1, 1), value), weight).item() == value * 2**16
    with pytest.raises(ConfigError, match="sums may reach 2,147,549,184"):
        fermat_conv2d(np.full((1, 1, 1, 1), 2**15 + 1), weight)


def test_bad_input() -> None:
    x, weight = np.zeros((1, 2, 8, 8), np.int64), np.zeros((1, 2, 3, 3), np.int64)
    for bits in (3, 64, 0):
        with pytest.raises(ConfigError, match="2, 4, 8, 16 or 32"):
            FermatRing(bits)
    with pytest.raises(ConfigError, match="are no"):
        fermat_conv2d(x, weight[:, :1])
    with pytest.raises(ConfigError, match="does not fit into"):
        fermat_conv2d(x[:, :, :2], weight)
    with pytest.raises(ConfigError, match="exceed 64"):
        fermat_conv2d(np.zeros((1, 2, 65, 8), np.int64), weight)
    with pytest.raises(ConfigError, match="power of two up to 64, got 12"):
        FermatRing().transform(np.zeros(12, np.uint64))
    with pytest.raises(ConfigError, match="not 'linear' layers"):
        direct_ops(LayerShape("linear", 3, 4))
    with pytest.raises(ConfigError, match="longer than 64"):
        transform_ops(LayerShape("conv", 3, 4, (65, 1), 8, (8, 1), (1, 1)))


def test_operations() -> None:
    # The document's second layer: kernel 7, transform 32, output 26, 96 to 256 channels.
    shape = LayerShape("conv", 96, 256, (7, 7), 26 * 26, (26, 26), (1, 1))
    direct, ready, fresh = direct_ops(shape), transform_ops(shape), transform_ops(shape, weights_ready=False)
    assert direct.multiplications == direct.additions == 96 * 256 * 26**2 * 49
    assert ready.multiplications == 96 * 256 * 32**2
    # 32^2 points, log2 32 = 5 along both dimensions
    assert ready.shifts == (96 + 256) * 1024 * 10
    assert ready.additions == ready.multiplications + ready.shifts
    assert ready.conversions == 26**2 * (96 + 256)
    assert fresh.shifts - ready.shifts == 96 * 256 * 1024 * 10
    assert fresh.conversions - ready.conversions == 96 * 256 * 49
    # A pointwise layer gains nothing; sizes beyond one transform are cut into tiles of 64 - 2.
    point = LayerShape("conv", 16, 16, (1, 1), 64, (8, 8), (1, 1))
    assert transform_ops(point).multiplications == direct_ops(point).multiplications
    large = LayerShape("conv", 1, 1, (3, 3), 124 * 62, (124, 62), (1, 1))
    assert transform_ops(large).multiplications == 2 * 64 * 64
