"""The registry of targets, their constants, and what importing them costs."""

from dataclasses import replace

import pytest

from nasopt.cost import get_target, register_target, target_names
from nasopt.cost.targets import Target
from nasopt.errors import ConfigError


def test_shipped_targets():
    shipped = [
        "cortex_m0plus",
        "cortex_m33",
        "cortex_m4",
        "cortex_m4_cmsis_nn",
        "cortex_m7",
        "cortex_m85",
        "efr32_mvp",
        "ethos_u55_128",
        "gap8",
        "gap9_ne16",
        "cortex_m7_xcube10",
        "cortex_a7_litert",
    ]
    assert set(shipped) <= set(target_names())
    assert target_names() == sorted(target_names())


@pytest.mark.parametrize("name", target_names())
def test_every_target_says_what_it_is(name):
    target = get_target(name)
    assert target.name == name
    assert target.summary
    assert target.provenance
    assert {"conv", "depthwise", "linear", "matmul"} <= target.priced
    assert target.ram_bytes > 0
    assert target.milliseconds(target.clock_mhz * 1e3) == pytest.approx(1)
    assert get_target(target) is target


def test_unknown_target():
    with pytest.raises(
        ConfigError, match=r"unknown target 'cortex_m5': known are cortex_a7_litert, .*Did you mean 'cort"
    ):
        get_target("cortex_m5")
    with pytest.raises(ConfigError, match="unknown target 7"):
        get_target(7)


def test_register():
    own = replace(get_target("gap8"), name="my_gap8", clock_mhz=250.0)
    assert register_target(own) is own
    assert register_target(own) is own
    assert get_target("my_gap8").clock_mhz == 250
    with pytest.raises(ConfigError, match="'my_gap8' exists already"):
        register_target(replace(own))
    with pytest.raises(ConfigError, match="'gap8' exists already"):
        register_target(get_target("gap8"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"priced": frozenset({"convolution"})}, "'convolution' does not exist"),
        ({"free": frozenset({"conv"})}, "conv cannot be priced and free"),
        ({"clock_mhz": 0.0}, "positive clock"),
        ({"clock_mhz": float("nan")}, "positive clock"),
        ({"tile_in": 0}, "at least 1"),
    ],
)
def test_impossible_targets(change, message):
    target: Target = get_target("gap8")
    with pytest.raises(ConfigError, match=message):
        replace(target, **change)
