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


PLAIN = "kind,in_channels,out_channels,kernel,output_size,ms\nconv,8,8,3x3,4x4,0.25\nlinear,10,20,,,0.0125\n"
COMMAS = "kind;in_channels;out_channels;kernel;output_size;ms\nconv;8;8;3x3;4x4;0,25\nlinear;10;20;;;0,0125\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        b"# my board\n\n" + PLAIN.encode() + b",,,,,\n\n",
        PLAIN.replace(",", "\t").encode(),
        PLAIN.replace(",", " , ").encode(),
        PLAIN.replace(",ms", ",Time (ms)").replace("kind,in_channels", "Kind,In Channels").encode(),
        PLAIN.replace("ms", "latency_us").replace("0.25", "250").replace("0.0125", "12.5").encode(),
        PLAIN.replace(",ms", ",seconds,macs").replace("0.25", "0.00025,9216").replace("0.0125", "12.5e-6,200").encode(),
        PLAIN.replace("ms", "CPU cycles").replace("0.25", "25000").replace("0.0125", '"1,250"').encode(),
        PLAIN.replace("3x3", '"(3, 3)"').replace("4x4", '"[4, 4]"').encode(),
        PLAIN.replace("3x3", "3\N{MULTIPLICATION SIGN}3").replace("conv", "Conv").encode(),
        b"ms,out_channels,in_channels,kernel,output_size,kind\n0.25,8,8,3x3,4x4,conv\n0.0125,20,10,1,1,linear\n",
        PLAIN.replace("ms", "\N{MICRO SIGN}s").replace("0.25", "250").replace("0.0125", "12.5").encode(),
        COMMAS.encode(),
        COMMAS.replace("0,25", "0.25").encode(),
        COMMAS.replace(";ms", ";ns").replace("0,25", "250.000,0").replace("0,0125", "12500").encode(),
    ],
)
def test_the_same_table_as_people_write_it(content, tmp_path):
    path, plain = tmp_path / "mine.csv", tmp_path / "plain.csv"
    path.write_bytes(content)
    plain.write_text(PLAIN)
    expected = target_from_table(plain, "mine", clock_mhz=100)
    assert target_from_table(path, "mine", clock_mhz=100).law == expected.law


def test_rows_that_are_no_mappings():
    with pytest.raises(ConfigError, match="row 1 is a str: give mappings of columns to values"):
        target_from_table(["conv", "linear"], "mine", clock_mhz=100)


def test_rows_as_numbers_and_as_a_data_frame():
    layer = {"kind": "conv", "in_channels": 8, "out_channels": 8.0, "kernel": (3, 3), "output_size": 4, "us": 250}

    class Frame:
        def to_dict(self, orient):
            assert orient == "records"
            return [layer | {"groups": float("nan"), "stride": None}]

    expected = target_from_table([{key: str(value) for key, value in layer.items()}], "mine", clock_mhz=100)
    assert target_from_table([layer], "mine", clock_mhz=100).law == expected.law
    assert target_from_table(Frame(), "mine", clock_mhz=100).law == expected.law


def test_a_layer_that_was_timed_twice():
    shape = conv(16, 32)
    rows = [row(shape, cycles) for cycles in (90_000, 110_000)]
    between = latency_metric(target_from_table(rows, "twice", 100)).cost(shape)
    assert between == pytest.approx((90_000 * 110_000) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("kind,in_channels,out_channels,cycles\nlinear,1,5,6,7\n", "row 2: 5 values under 4 heads: quote"),
        ("kind,in_channels,out_channels,cycles\nlinear,1.5,5,6\n", "row 2: in_channels is '1.5': give a whole number"),
        ("kind,in_channels,out_channels,cycles\nlinear,1e30,5,6\n", "in_channels is '1e30': give a whole number below"),
        ("kind,in_channels,out_channels,ms\nlinear,1,5,0,25\n", "row 2: 5 values under 4 heads: quote"),
        ("kind,in_channels,out_channels,ms\nlinear,1,5,soon\n", "row 2: ms is 'soon'"),
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
