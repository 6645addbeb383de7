"""The kernels of the embedded targets, against values derived by hand."""

from dataclasses import replace

import numpy as np
import pytest

from nasopt.cost.latency import evaluate
from nasopt.cost.targets import KIND_CODES, Row, Target, get_target, target_names
from nasopt.cost.targets.cortex_law import PRICES, cortex_law

# Targets of one law differ in their constants only.
ONE_PER_KERNEL = sorted({get_target(name).kernel: name for name in target_names()}.values())


def cycles(target: str | Target, kind: str, cin: int, cout: int, k=(1, 1), size=(1, 1), s=(1, 1), groups=1) -> int:
    row = np.array([KIND_CODES[kind], cin, cout, *k, *size, *s, groups, 8, 8])
    return int(evaluate(target, row))


# Prices that name themselves in the sum: kxk 2, few 3, pointwise 5, depthwise 7, linear 11, patch 13, pointwise input 17,
# output 19, call 1000, elementwise 23, weight 29 [cycle per unit].
LAW = dict(zip(PRICES, (2, 3, 5, 7, 11, 13, 17, 19, 1000, 23, 29)))


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # 8192 outputs x 144 MAC, patches of 256 x 144, outputs, call, 4608 weights
        (("conv", 16, 32, (3, 3), (16, 16)), 8192 * 144 * 2 + 256 * 144 * 13 + 8192 * 19 + 1000 + 4608 * 29),
        # three channels
        (("conv", 3, 32, (3, 3), (16, 16)), 8192 * 27 * 3 + 256 * 27 * 13 + 8192 * 19 + 1000 + 864 * 29),
        # pointwise: no patches, but each input is read
        (("conv", 16, 32, (1, 1), (16, 16)), 8192 * 16 * 5 + 256 * 16 * 17 + 8192 * 19 + 1000 + 512 * 29),
        # four groups of 4 channels: 36 MAC an output, patches of all 16 channels, 1152 weights
        (
            ("conv", 16, 32, (3, 3), (16, 16), (1, 1), 4),
            8192 * 36 * 2 + 256 * 144 * 13 + 8192 * 19 + 1000 + 1152 * 29,
        ),
        (("depthwise", 32, 32, (3, 3), (16, 16)), 8192 * 9 * 7 + 8192 * 19 + 1000 + 288 * 29),
        (("linear", 64, 10), 640 * 11 + 10 * 19 + 1000 + 640 * 29),
        # nothing is stored
        (("matmul", 64, 10), 640 * 11 + 10 * 19 + 1000),
        # 8x8 inputs, stride 2: 64 x 32 x 4 x 16 MAC, patches of 64 x 4 x 16, 16 x 16 x 32 outputs, 2048 weights
        (
            ("conv_transpose", 16, 32, (2, 2), (8, 8), (2, 2)),
            131_072 * 2 + 4096 * 13 + 8192 * 19 + 1000 + 2048 * 29,
        ),
        (("norm", 32, 32, (1, 1), (8, 8)), 2048 * 23 + 1000),
        (("add", 32, 32, (1, 1), (8, 8)), 2048 * 23 + 1000),
        (("pool", 32, 32, (2, 2), (8, 8)), 2048 * 4 * 23 + 1000),
    ],
)
def test_cortex_law(layer, expected):
    target = replace(get_target("cortex_m4"), law=cortex_law(LAW))
    assert cycles(target, *layer) == expected


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # ceil(16/2) x ceil(16/8) x (2x9x16 + ceil(32/4) x (5 + 14 x ceil(144/4) + 10)) = 8 x 2 x (288 + 8 x 519)
        (("conv", 16, 32, (3, 3), (16, 16), (2, 2)), 71_040),
        # 17 columns and 9 rows take another pair and another round: 9 x 2 x (2x16 + 8 x (5 + 14 x 4 + 10))
        (("conv", 16, 32, (1, 1), (9, 17)), 10_800),
        # 4 x ceil(30/4) x 10 x 10 x 9
        (("depthwise", 30, 30, (3, 3), (10, 10)), 28_800),
        # ceil(63/2) x ceil(10/4)
        (("linear", 63, 10), 96),
        # two groups are twice a convolution of half the channels: 2 x 8 x 2 x (2x9x8 + 4 x (5 + 14 x 18 + 10))
        (("conv", 16, 32, (3, 3), (16, 16), (2, 2), 2), 38_784),
    ],
)
def test_gap8_in_l1(layer, expected):
    assert cycles("gap8", *layer) == expected


def test_gap8_tiles_what_does_not_fit():
    # 640 x 128 = 81,920 weights > 64 kB. Halves of 64 outputs would need 2 x (640 + 640 x 64 + 64) = 83,328 bytes for
    # two buffers, so tiles have 32: 4 of them, each of 320 x 8 = 2,560 cycles of work and
    # (640 + 20,480 + 32) / 8 + 100 = 2,744 cycles of transfer: 2,744 + 4 x max. Tiles of 16 take
    # 1 row: (640 + 10,240 + 16) / 8 + 100 = 1,462 + 8 x 1,462 = 13,158; of 8: 822 + 16 x 822 = 13,974; of 32: 13,720.
    assert cycles("gap8", "linear", 640, 128) == 13_158


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # 1 tile: load 19 + multiply 6 + 32 + 8, quantise 9 + 32 + 8 + 4, write 13; 9 x (16 + 32) / 8 moved; call 500
        (("conv", 16, 32, (1, 1), (3, 3)), 65 + 53 + 13 + 54 + 500),
        # two input steps of 31 + 6 + 32 x 8 + 8
        (("conv", 32, 32, (3, 3), (3, 3)), 2 * 301 + 53 + 13 + 72 + 500),
        # one channel more is another tile of outputs with k = 1: 65 - 31 = 34, quantise 9 + 1 + 8 + 1, write 13
        (("conv", 16, 33, (1, 1), (3, 3)), 131 + (34 + 19 + 13) + 56 + 500),
        # two tiles of 16 channels: 31 + 6 + 128 + 8, quantise 9 + 16 + 8 + 2, write 13
        (("depthwise", 32, 32, (3, 3), (3, 3)), 2 * (173 + 35 + 13) + 72 + 500),
        # four steps of 19 + 6 + 10 + 8, quantise 9 + 10 + 8 + 2, write 13; 640 weights / 8; 74 / 8 -> 10 moved
        (("linear", 64, 10), 4 * 43 + 29 + 13 + 80 + 10 + 500),
    ],
)
def test_gap9_ne16(layer, expected):
    assert cycles("gap9_ne16", *layer) == expected


def test_ne16_multiplies_bit_by_bit():
    rows = np.array([[0, 32, 32, 3, 3, 3, 3, 1, 1, 1, bits, 8] for bits in (8, 4)])
    eight, four = evaluate("gap9_ne16", rows)
    # two input steps of 32 output channels, each four cycles shorter
    assert eight - four == 2 * 32 * 4


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # blocks of 1x2 positions by 8 channels: 32 x 16 x 2 = 1024, each 9 taps x 16/8 + 5
        (("conv", 16, 16, (3, 3), (32, 32)), 1024 * 23),
        # 40 channels are read as 64: 9 x 8 + 5; 32 x 16 x 5 blocks
        (("conv", 40, 40, (3, 3), (32, 32)), 2560 * 77),
        # few products: at least 9 cycles per block; 48 x 24 x 2 blocks
        (("conv", 8, 16, (1, 1), (48, 48)), 2304 * 9),
        # 25x5 counts as 26x6: 13 x 3 x 2 x 8 blocks of 12 + 1, + 600
        (("depthwise", 64, 64, (3, 3), (25, 5)), 624 * 13 + 600),
        # weights from flash: 128 x 128 x 0.75, more than 16 blocks of 21
        (("linear", 128, 128), 12_288),
        (("add", 16, 16, (1, 1), (32, 32)), 24_576),
        # 65 % of 8 x 8 x 64 = 4096 elements, rounded up
        (("pool", 64, 64, (8, 8), (1, 1)), 2_663),
    ],
)
def test_ethos(layer, expected):
    assert cycles("ethos_u55_128", *layer) == expected


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # 65 inputs are two steps, 17 outputs two: 64 x 9 x 4 steps of 2; 9945 weights x 3; 1088 outputs x 5; call 7
        (("conv", 65, 17, (3, 3), (8, 8)), 2 * 2304 + 3 * 9945 + 5 * 1088 + 7),
        # 9 taps of 32 channels at once: 64 x 2 steps, 360 weights, 2560 outputs
        (("depthwise", 40, 40, (3, 3), (8, 8)), 2 * 128 + 3 * 360 + 5 * 2560 + 7),
        (("linear", 64, 10), 2 * 1 + 3 * 640 + 5 * 10 + 7),
        (("matmul", 64, 10), 2 * 1 + 5 * 10 + 7),
    ],
)
def test_stm32n6(layer, expected):
    assert cycles(replace(get_target("stm32n6"), law=(2000, 7000, 3000, 5000)), *layer) == expected


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # 4x4 positions, 3x3 taps, "same": along each side 3 x 4 - 2 = 10 taps meet data; x 2 x 5 channels
        (("conv", 2, 5, (3, 3), (4, 4)), 10 * 10 * 2 * 5),
        # 9 taps around each of 4 positions: all 4 inputs are within reach of each
        (("depthwise", 6, 6, (9, 1), (4, 1)), 16 * 6),
        # stride 2 over 4 inputs, padded at the end: positions read 0 1 2 and 2 3 -, so 5 taps along each side
        (("depthwise", 6, 6, (3, 3), (2, 2), (2, 2)), 25 * 6),
        (("linear", 64, 10), 640),
    ],
)
def test_efr32_counts_taps_that_meet_data(layer, expected):
    one_cycle_per_mac = tuple(1000 if i % 6 == 0 else 0 for i in range(36))
    assert cycles(replace(get_target("efr32_mvp"), law=one_cycle_per_mac), *layer) == expected


@pytest.mark.parametrize("name", ONE_PER_KERNEL)
def test_compiled_equals_python(name):
    target = get_target(name)
    generator = np.random.default_rng(0)
    kinds = [KIND_CODES[kind] for kind in sorted(target.priced)]
    for _ in range(200):
        groups = int(generator.integers(1, 3))
        cin, cout, k0, k1, h, w = (int(value) for value in generator.integers(1, [65, 65, 6, 6, 33, 33]))
        s0, s1 = (int(value) for value in generator.integers(1, 3, size=2))
        row = [int(generator.choice(kinds)), cin * groups, cout * groups, k0, k1, h, w, s0, s1, groups, 8, 8]
        compiled = int(evaluate(target, np.array(row)))
        assert compiled == target.kernel.py_func(Row(*row), target.law) > 0


@pytest.mark.parametrize("name", ONE_PER_KERNEL)
def test_more_work_is_never_cheaper(name):
    """More channels in steps of the tile, more positions, more taps: never fewer cycles."""
    target = get_target(name)
    for kind in sorted(target.priced & {"conv", "depthwise", "linear"}):
        base = np.array([KIND_CODES[kind], 4, 4, 3, 3, 6, 6, 1, 1, 1, 8, 8])
        for column, step in (("in", target.tile_in), ("out", target.tile_out), ("k", 1), ("size", 1)):
            columns = {"in": [1], "out": [2], "k": [3, 4], "size": [5, 6]}[column]
            rows = np.repeat(base[None], 40, axis=0)
            for at in columns:
                first = 4 if column == "in" else 2 if column == "k" else 1  # 1x1 convolutions have laws of their own
                rows[:, at] = np.maximum(first, np.arange(40) * step)
            if kind == "depthwise" and column in ("in", "out"):
                rows[:, 1] = rows[:, 2] = np.maximum(1, np.arange(40) * step)
            priced = evaluate(target, rows)
            assert (np.diff(priced) >= 0).all(), (name, kind, column)


@pytest.mark.parametrize(
    ("layer", "bits", "expected"),
    [
        # 16 x 32 x 9 x 9 MAC at 2.1, at 6.5, at 2.5 and at 3.9 per cycle, rounded up
        (("conv", 16, 32, (3, 3), (3, 3)), (8, 8), 19_749),
        (("conv", 16, 32, (3, 3), (3, 3)), (2, 2), 6_381),
        (("conv", 16, 32, (3, 3), (3, 3)), (2, 8), 16_589),
        (("conv", 16, 32, (3, 3), (3, 3)), (2, 4), 10_634),
        # a depthwise layer reads one channel per output; 2.2 with weights of 8 bits and activations of 2
        (("depthwise", 22, 22, (3, 3), (5, 5)), (8, 2), 2_250),
        # both factors of a product are activations: 640 / 3.5, whatever width weights have
        (("matmul", 64, 10), (8, 4), 183),
    ],
)
def test_mpic(layer, bits, expected):
    kind, cin, cout, *sizes = layer
    k, size = [*sizes, (1, 1), (1, 1)][:2] if sizes else ((1, 1), (1, 1))
    assert int(evaluate("mpic", np.array([KIND_CODES[kind], cin, cout, *k, *size, 1, 1, 1, *bits]))) == expected
