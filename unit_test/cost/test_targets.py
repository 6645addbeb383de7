"""The registry of targets, their constants, and what importing them costs."""

from dataclasses import replace

import pytest

from nasopt.cli import main
from nasopt.cost import chip_names, get_target, register_target, target_names
from nasopt.cost.targets import Target
from nasopt.cost.targets.chips import CHIPS, WITHOUT_LAW
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
        "stm32n6",
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
    assert target.ram_bytes > 0 or "memory not known" in target.provenance
    assert 8 in {*target.weight_bits} & {*target.activation_bits}
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
        register_target(replace(own, clock_mhz=100.0))
    assert register_target(replace(own)) == own  # a file that is read again
    with pytest.raises(ConfigError, match="'gap8' exists already"):
        register_target(get_target("gap8"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"priced": frozenset({"convolution"})}, "'convolution' does not exist"),
        ({"free": frozenset({"conv"})}, "conv cannot be priced and free"),
        ({"clock_mhz": 0.0}, "positive clock"),
        ({"clock_mhz": float("nan")}, "clock_mhz must be a finite number"),
        ({"tile_in": 0}, "at least 1"),
        ({"weight_bits": (0, 4)}, r"weight_bits is \(0, 4\): give a tuple of widths"),
        ({"activation_bits": ()}, "activation_bits is"),
        ({"weight_bits": 4}, "weight_bits must be a tuple"),
    ],
)
def test_impossible_targets(change, message):
    target: Target = get_target("gap8")
    with pytest.raises(ConfigError, match=message):
        replace(target, **change)


@pytest.mark.parametrize("name", chip_names())
def test_a_chip_is_an_alias_with_figures_of_its_own(name):
    chip = get_target(name)
    law = get_target(CHIPS[name].target)
    assert (chip.name, chip.kernel, chip.law) == (name, law.kernel, law.law)
    assert chip.clock_mhz > 0
    assert chip.ram_bytes >= 32 * 1024
    assert law.name in chip.summary
    assert CHIPS[name].source in chip.provenance
    assert chip == get_target(name)


def test_chips_are_found_however_they_are_written():
    assert len(chip_names()) >= 25
    nordic = get_target("nRF52840")
    assert (nordic.clock_mhz, nordic.ram_bytes, nordic.flash_bytes) == (64, 262_144, 1_048_576)
    assert get_target("STM32-L476").name == "stm32l476"
    for name in WITHOUT_LAW:
        with pytest.raises(ConfigError, match=f"no target for {name}: .*target_from_timings"):
            get_target(name)
    with pytest.raises(ConfigError, match=r"unknown target 'nrf5284'.*Did you mean 'nrf52840'"):
        get_target("nrf5284")
    with pytest.raises(ConfigError, match="'nRF52840' exists already"):
        register_target(replace(get_target("gap8"), name="nRF52840"))
    for name, same in (("nRF 52840", "nrf52840"), (" Cortex M4", "cortex_m4"), ("Cortex-M0+", "cortex_m0plus")):
        assert get_target(name) == get_target(same)
    for longer, chip in (("STM32F746NG", "stm32f746"), ("nRF52840-DK", "nrf52840"), ("STM32L4R5ZI-P", "stm32l4r5")):
        with pytest.raises(ConfigError, match=f"Did you mean '{chip}'"):  # whose flash may be another
            get_target(longer)


@pytest.mark.parametrize("clock", [64e6, 64_000])
def test_a_clock_in_other_units(clock):
    with pytest.raises(ConfigError, match="give it in MHz, at most 10,000"):
        get_target("cortex_m4", clock_mhz=clock)


@pytest.mark.parametrize(
    "change", [{"name": ""}, {"name": "a\nb"}, {"name": " a"}, {"ram_bytes": -1}, {"flash_bytes": -1}]
)
def test_fields_of_targets_that_cannot_be(change):
    with pytest.raises(ConfigError, match=r"printable text|give 0 where"):
        replace(get_target("cortex_m4"), **change)


def test_another_chip_with_the_same_core():
    base = get_target("cortex_m4")
    other = get_target("cortex_m4", clock_mhz=64, ram_bytes=262_144, flash_bytes=1_048_576)
    assert (other.name, other.law, other.ram_bytes, other.flash_bytes) == (
        "cortex_m4@64MHz",
        base.law,
        262_144,
        1_048_576,
    )
    assert other.milliseconds(base.clock_mhz * 1e3) == pytest.approx(base.clock_mhz / 64)
    assert other.active_power_mw == 0  # measured at another clock
    assert get_target("cortex_m4", active_power_mw=30).active_power_mw == 30
    assert get_target("cortex_m4", ram_bytes=1000).name == "cortex_m4"
    assert get_target(base, clock_mhz=base.clock_mhz).active_power_mw == base.active_power_mw
    for bad in (0, -1, float("nan"), float("inf"), "64", True):
        with pytest.raises(ConfigError, match=r"clock_mhz must be a finite number > 0"):
            get_target("cortex_m4", clock_mhz=bad)


def test_the_command_lists_what_matches(capsys):
    assert main(["targets", "--match", "nRF"]) == 0
    shown = capsys.readouterr().out
    assert "nrf52840" in shown
    assert "stm32l476" not in shown
    assert main(["targets", "--match", "zx81"]) == 2
    assert "no target matches 'zx81'" in capsys.readouterr().err


def test_other_libraries_on_m7_are_a_factor():
    base = get_target("cortex_m7").law
    for name, factor in (("tinyengine", 1.1), ("cmsis_nn", 2.2), ("tflm", 24)):
        law = get_target(f"cortex_m7_{name}").law
        assert law == pytest.approx([factor * price for price in base], abs=1)
