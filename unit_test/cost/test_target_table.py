"""Targets from measured rows: interpolation, and tables that cannot be used."""

import pytest

from nasopt.cost import latency_metric, target_from_table
from nasopt.errors import ConfigError, UnpricedError
from nasopt.graph.layer_shape import LayerShape

TABLE = """kind,in_channels,out_channels,kernel,output_size,cycles
linear,10,10,,,1000
linear,10,20,,,1500
linear,20,20,,,3500
conv,8,8,3x3,4x4,20000
conv,16,16,3x3,4x4,60000
"""


def linear(cin: int, cout: int) -> int:
    return LayerShape("linear", cin, cout)


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(TABLE)
    return target_from_table(path, "mine", clock_mhz=100, active_power_mw=5)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        # measured: 100, 200 and 400 MAC
        (linear(10, 10), 1000),
        (linear(10, 20), 1500),
        (linear(20, 20), 3500),
        # half way between 100 and 200 MAC, and between 200 and 400
        (linear(10, 15), 1250),
        (linear(10, 30), 2500),
        # beyond the largest: the last segment, 10 cycles per MAC
        (linear(20, 25), 4500),
        # below the smallest the first segment goes on: 1000 - 50 x 5, more than 50 MAC at 10 cycles per MAC
        (linear(10, 5), 750),
        # convolutions: 9216 MAC -> 20,000 and 36,864 MAC -> 60,000; 18,432 MAC lie a third of the way up
        (LayerShape("conv", 8, 16, (3, 3), 16, (4, 4), (1, 1)), 33_333),
        # below: the segment would give 20,000 - 7/8 x 9216 x 40,000 / 27,648 = 8333; proportional is 2500
        (LayerShape("conv", 1, 8, (3, 3), 16, (4, 4), (1, 1)), 8_333),
    ],
)
def test_interpolation(target, shape, expected):
    assert latency_metric(target).cost(shape) == expected


def test_rows_may_be_mappings_and_milliseconds():
    rows = [{"kind": "depthwise", "in_channels": str(c), "out_channels": str(c), "ms": str(c / 10)} for c in (8, 64)]
    target = target_from_table(rows, "ms", clock_mhz=2)
    # 0.8 ms at 2 MHz
    assert latency_metric(target).cost(LayerShape("depthwise", 8, 8, groups=8)) == 1600
    assert latency_metric(target, "ms").cost(LayerShape("depthwise", 8, 8, groups=8)) == pytest.approx(0.8)


def test_kinds_without_rows_are_unpriced(target):
    assert target.status("linear") == "priced"
    assert target.status("depthwise") == "unpriced"
    with pytest.raises(UnpricedError, match="'mine' has no law for 'depthwise'"):
        latency_metric(target).cost(LayerShape("depthwise", 8, 8, groups=8))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("kind,in_channels,cycles\nlinear,1,5\n", "row 2: 'out_channels' is missing"),
        ("kind,in_channels,out_channels\nlinear,1,5\n", "row 2: neither 'cycles' nor 'ms'"),
        ("kind,in_channels,out_channels,cycles\nlinear,1,5,\n", "row 2: neither 'cycles' nor 'ms'"),
        ("kind,in_channels,out_channels,cycles\nlinear,1,5,nan\n", "cycles is 'nan': give a positive number"),
        ("kind,in_channels,out_channels,cycles\nlinear,1,5,-3\n", "cycles is '-3'"),
        ("kind,in_channels,out_channels,cycles\nlinear,1,many,3\n", "out_channels is 'many'"),
        ("kind,in_channels,out_channels,cycles\nliner,1,5,9\n", "kind 'liner' has no MACs.*Did you mean 'linear'"),
        ("kind,in_channels,out_channels,cycles\nnorm,5,5,9\n", "kind 'norm' has no MACs"),
        ("kind,in_channels,out_channels,kernel,cycles\nconv,1,5,3x,9\n", "kernel is '3x'"),
        ("kind,in_channels,out_channels,cycles\nlinear,1,5,9\n", "one size only"),
        (
            "kind,in_channels,out_channels,cycles\nlinear,1,5,9\nlinear,5,1,8\n",
            "rows 2 and 3: two linear layers of 5 MAC",
        ),
        (
            "kind,in_channels,out_channels,cycles\nlinear,1,9,8\nlinear,1,5,9\n",
            "rows 3 and 2: the linear layer of 9 MAC takes 8 cycles, less than the 9 of 5 MAC",
        ),
        ("kind,in_channels,out_channels,cycles\n", "no rows"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, table, message):
    path = tmp_path / "bad.csv"
    path.write_text(table)
    with pytest.raises(ConfigError, match=message):
        target_from_table(path, "bad", clock_mhz=80)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        target_from_table(tmp_path / "none.csv", "none", clock_mhz=80)
