"""Targets from measured layers: they follow the measurements, take noise, and say what is wrong with a table."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nasopt.cost import get_target, latency_metric, target_from_table
from nasopt.errors import ConfigError
from nasopt.graph.layer_shape import LayerShape

HEADER = "kind,in_channels,out_channels,kernel,output_size"


def conv(cin: int, cout: int, k: int = 3, size: int = 8) -> LayerShape:
    return LayerShape("conv", cin, cout, (k, k), size * size, (size, size), (1, 1))


def row(shape: LayerShape, cycles: float) -> dict[str, str]:
    kernel, size = ("x".join(map(str, sizes)) for sizes in (shape.kernel, shape.output_size))
    given = {"in_channels": str(shape.in_channels), "out_channels": str(shape.out_channels), "cycles": str(cycles)}
    return {"kind": shape.kind, "kernel": kernel, "output_size": size} | given


LAYERS = [
    *(conv(cin, cout, k) for cin, cout in ((8, 16), (16, 48), (24, 24), (64, 32)) for k in (1, 3)),
    *(LayerShape("linear", cin, cout) for cin, cout in ((64, 10), (256, 32), (640, 128))),
    *(LayerShape("depthwise", c, c, (3, 3), 64, (8, 8), (1, 1), groups=c) for c in (8, 32, 96)),
]


def test_a_table_of_a_board_gives_that_board():
    board = latency_metric("cortex_m33_xcube9")
    target = target_from_table([row(shape, board.cost(shape)) for shape in LAYERS], "mine", 160, like="cortex_m4")
    for shape in (conv(32, 40), conv(12, 20, 1), LayerShape("linear", 128, 64)):
        assert latency_metric(target).cost(shape) == pytest.approx(board.cost(shape), rel=0.15)


def test_noise_is_taken():
    board, generator = latency_metric("cortex_m7"), np.random.default_rng(0)
    rows = [row(shape, board.cost(shape) * float(np.exp(0.2 * generator.standard_normal()))) for shape in LAYERS]
    target = target_from_table(rows, "noisy", 280)
    off = [latency_metric(target).cost(shape) / board.cost(shape) - 1 for shape in LAYERS]
    assert np.abs(off).mean() < 0.2
    counts = torch.linspace(4, 90, 50, dtype=torch.float64)
    assert (latency_metric(target).cost(conv(64, counts)).diff() > 0).all()


def test_one_row_is_enough_and_kinds_without_rows_follow_the_family():
    board = latency_metric("cortex_m4")
    target = target_from_table([row(conv(16, 32), 2 * board.cost(conv(16, 32)))], "twice", 120)
    assert latency_metric(target).cost(conv(8, 8)) == pytest.approx(2 * board.cost(conv(8, 8)), rel=0.02)
    linear = LayerShape("linear", 64, 10)
    assert latency_metric(target).cost(linear) == pytest.approx(2 * board.cost(linear), rel=0.02)
    assert target.uncertainty is not None


@pytest.mark.parametrize(("column", "value"), [("ms", "0.5"), ("us", "500"), ("cycles", "50000")])
def test_units(column, value):
    target = target_from_table([{"kind": "linear", "in_channels": "64", "out_channels": "10", column: value}], "u", 100)
    assert latency_metric(target, "ms").cost(LayerShape("linear", 64, 10)) == pytest.approx(0.5, rel=1e-3)


def test_files(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(f"{HEADER},ms\nconv,8,8,3x3,4x4,0.2\nlinear,10,20,,,0.01\n")
    target = target_from_table(path, "mine", clock_mhz=100, active_power_mw=5)
    assert target.provenance == "mine.csv"
    assert target.active_power_mw == 5
    assert "2 measured layers" in target.summary


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("kind,in_channels,cycles\nlinear,1,5\n", "row 2: 'out_channels' is missing"),
        ("kind,in_channels,out_channels\nlinear,1,5\n", "row 2: neither 'cycles' nor 'ms'"),
        ("kind,in_channels,out_channels,cycles\nlinear,1,5,\n", "row 2: neither 'cycles' nor 'ms'"),
        ("kind,in_channels,out_channels,cycles\nlinear,1,5,nan\n", "cycles is 'nan': give a positive number"),
        ("kind,in_channels,out_channels,cycles\nlinear,1,5,-3\n", "cycles is '-3'"),
        ("kind,in_channels,out_channels,cycles\nlinear,1,many,3\n", "out_channels is 'many'"),
        ("kind,in_channels,out_channels,cycles\nliner,1,5,9\n", "kind 'liner' does not exist.*Did you mean 'linear'"),
        ("kind,in_channels,out_channels,kernel,cycles\nconv,1,5,3x,9\n", "kernel is '3x'"),
        ("kind,in_channels,out_channels,groups,cycles\nconv,6,8,4,9\n", "6 and 8 channels do not divide into 4 groups"),
        ("kind,in_channels,out_channels,cycles\n", "no rows"),
        (
            f"{HEADER},cycles\nconv,16,32,3x3,8x8,700000\nconv,16,48,3x3,8x8,900000\nconv,24,32,3x3,8x8,900\n",
            r"contradict: .*row 4 \(conv\) takes .* times as short",
        ),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, table, message):
    path = tmp_path / "bad.csv"
    path.write_text(table)
    with pytest.raises(ConfigError, match=message):
        target_from_table(path, "bad", clock_mhz=80)


def test_missing_file_and_other_laws(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        target_from_table(tmp_path / "none.csv", "none", clock_mhz=80)
    with pytest.raises(ConfigError, match="'gap8' is no CPU with the law of eleven prices"):
        target_from_table([row(conv(8, 8), 10_000)], "mine", 80, like=get_target("gap8"))
