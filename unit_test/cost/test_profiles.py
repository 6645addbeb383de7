"""Profiles as tools print them, targets from them, and the command `nasopt calibrate`."""

from __future__ import annotations

import importlib.util
import re

import pytest
from torch import nn

from nasopt import PIT
from nasopt.cli import main
from nasopt.cost import get_target, latency_metric, network_calls, network_cost, read_profile, target_from_profile
from nasopt.cost.targets import registry
from nasopt.errors import ConfigError

SHAPE = (3, 16, 16)


def net() -> nn.Module:
    """Two convolutions, a depthwise one, a head."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


TICKS = """CONV_2D took 133245 ticks (133 ms).
DEPTHWISE_CONV_2D took 40000 ticks (40 ms).
CONV_2D took 20123 ticks (20 ms).
MEAN took 900 ticks (0 ms).
FULLY_CONNECTED took 1234 ticks (1 ms).
"""
CSV = """"Event","Tag","Ms","Ticks"
0,CONV_2D,133,133245
1,FULLY_CONNECTED,1,1234
"""
MLTK = "index,op,macs,time_s,output_shape\n0,conv_2d,1200000.0,0.0019,1x48x48x24\n1,average_pool_2d,69100.0,0.000148,1x24x24x24\n"
VELA = "TFLite_operator,NNG Operator,SRAM Usage,Peak%,Op Cycles,Network%\n"
VELA += "Conv2D,Conv2DBias,9216,12.5,54000,20\nAdd,Add,9216,12.5,1000,1\n"
ST = """ Inference time per node
 ---------------------------------------------------------------
 c_id    m_id   type                 dur (ms)       %    name
 ---------------------------------------------------------------
 0       2      Conv2D (0x103)          4.021   64.0%    conv1
 1       5      DepthwiseConv2D (0x104)     1.500   23.9%    dw
 2       7      Dense (0x104)           0.760   12.1%    fc
"""
ESP = """+----------+------+---------+
|   name   | type | latency |
+----------+------+---------+
| /c/Conv  | Conv | 1.5ms   |
| /f/Gemm  | Gemm | 76us    |
+----------+------+---------+
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TICKS, [("CONV_2D", 133_245, "ticks"), ("DEPTHWISE_CONV_2D", 40_000, "ticks"), ("CONV_2D", 20_123, "ticks")]),
        (CSV, [("CONV_2D", 133_245, "ticks"), ("FULLY_CONNECTED", 1234, "ticks")]),
        (MLTK, [("conv_2d", 0.0019, "s"), ("average_pool_2d", 0.000148, "s")]),
        (VELA, [("Conv2DBias", 54_000, "ticks"), ("Add", 1000, "ticks")]),
        (ST, [("Conv2D", 4.021, "ms"), ("DepthwiseConv2D", 1.5, "ms"), ("Dense", 0.76, "ms")]),
        (ESP, [("Conv", 1.5, "ms"), ("Gemm", 76, "us")]),
    ],
    ids=["tflm", "tflm csv", "mltk", "vela", "st", "esp-dl"],
)
def test_what_tools_print(text, expected):
    found = read_profile(text)
    assert [(o.name, o.value, o.unit) for o in found[: len(expected)]] == expected


LOGGED = "\x1b[0;32mI (1234) main: CONV_2D took 133,245 ticks (133 ms).\x1b[0m\r\n"
LOGGED += "[00:01] <inf> app: MEAN took 900 ticks (0 ms).\r\n"
MLTK_CYCLES = "index,op,acc_cycles,cpu_cycles,time_s\n0,conv_2d,497700,100000,0.0079\n"
ONLY_CYCLES = "op,macs,cpu cycles\nconv_2d,9,1200\nadd,,300\n"
BARS = "| Layer Type | Avg (\N{MICRO SIGN}s) | share |\n|---|---:|---|\n| Conv | 1500.5 | 90% |\n| Gemm | 76 | 10% |\n"
GERMAN = "Operator;Zeit (ms)\r\nconv_2d;4,021\r\ndense;0,5\r\n"
GERMAN_BARS = "| Operator | Zeit (ms) |\n|---|---|\n| Conv | 4,021 |\n| Gemm | 0,5 |\n"
GROUPED = "op\tcycles\nconv_2d\t133.245\ndense\t1.234.567\nadd\t1,234\nmean\t12,5\n"
CLEARED = "\x1b[2K\x1b[1GCONV_2D took 133245 ticks (133 ms).\x1b[K\n\x1b[?25hMEAN took 900 ticks (0 ms).\n"
ST_NEW = ST.replace("(ms)       %    name", "(ms)       %   cumul  CPU cycles    name").replace(
    "64.0%    conv1", "64.0%  64.0%  [ 1,000  2 ]  conv1"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LOGGED, [("CONV_2D", 133_245, "ticks"), ("MEAN", 900, "ticks")]),
        ("\ufeff" + CSV.replace("\n", "\r\n"), [("CONV_2D", 133_245, "ticks"), ("FULLY_CONNECTED", 1234, "ticks")]),
        (MLTK_CYCLES, [("conv_2d", 0.0079, "s")]),
        (ONLY_CYCLES, [("conv_2d", 1200, "ticks"), ("add", 300, "ticks")]),
        (BARS, [("Conv", 1500.5, "us"), ("Gemm", 76, "us")]),
        (GERMAN, [("conv_2d", 4.021, "ms"), ("dense", 0.5, "ms")]),
        (GERMAN_BARS, [("Conv", 4.021, "ms"), ("Gemm", 0.5, "ms")]),
        (
            GROUPED,
            [(n, v, "ticks") for n, v in (("conv_2d", 133_245), ("dense", 1_234_567), ("add", 1234), ("mean", 12.5))],
        ),
        (CLEARED, [("CONV_2D", 133_245, "ticks"), ("MEAN", 900, "ticks")]),
        (ESP.replace("76us", "0.000076 s"), [("Conv", 1.5, "ms"), ("Gemm", 0.000076, "s")]),
        (
            "boot ok\nversion,3\n\n" + MLTK + "total,,,0.002,\n",
            [("conv_2d", 0.0019, "s"), ("average_pool_2d", 0.000148, "s")],
        ),
        (ST_NEW, [("Conv2D", 4.021, "ms"), ("DepthwiseConv2D", 1.5, "ms"), ("Dense", 0.76, "ms")]),
    ],
    ids=[
        "logger",
        "mark",
        "both cycles and time",
        "cycles of a part",
        "bars",
        "german",
        "german bars",
        "grouped",
        "cleared",
        "units",
        "around it",
        "st new",
    ],
)
def test_what_is_around_and_in_other_ways(text, expected, tmp_path):
    path = tmp_path / "log.txt"
    path.write_bytes(text.encode())
    for source in (text, path, str(path)):
        assert [(o.name, o.value, o.unit) for o in read_profile(source)[: len(expected)]] == expected


def test_several_inferences_in_one_log():
    once = profile_of("cortex_m4")
    slow = "\n".join(line.replace("took ", "took 1") for line in once.splitlines())
    expected = target_from_profile(net(), SHAPE, once, 100)
    assert target_from_profile(net(), SHAPE, f"{once}\n{slow}\n{once}", 100).law == expected.law
    with pytest.raises(ConfigError, match="the profile has 7 convolutions and linear layers"):
        target_from_profile(net(), SHAPE, once + "\n" + once[: once.rindex("\n")], 100)


def test_units_of_time():
    slow, fast = read_profile(ESP)
    # 1.5 ms at 100 MHz; 76 us
    assert (slow.cycles(100, 100), fast.cycles(100, 100)) == pytest.approx((150_000, 7600))
    # ticks of a 1 MHz timer beside a clock of 100 MHz
    assert read_profile(TICKS)[0].cycles(100, 1) == 13_324_500


def profile_of(target: str) -> str:
    metric = latency_metric(target)
    names = {"conv": "CONV_2D", "depthwise": "DEPTHWISE_CONV_2D", "linear": "FULLY_CONNECTED"}
    calls = network_calls(net(), SHAPE).calls
    lines = [f"{names[call.shape.kind]} took {metric.cost(call.shape)} ticks (1 ms)." for call in calls]
    return "\n".join([*lines[:3], "MEAN took 900 ticks (0 ms).", *lines[3:]])


def test_a_profile_gives_the_board():
    board = target_from_profile(net(), SHAPE, profile_of("cortex_m33_xcube9"), 160, name="mine", ram_bytes=1000)
    assert (board.name, board.ram_bytes, board.clock_mhz) == ("mine", 1000, 160)
    other = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 1), nn.Flatten(), nn.Linear(6144, 4)
    )
    expected = network_cost(other, "latency:cortex_m33_xcube9", SHAPE)
    assert network_cost(other, latency_metric(board), SHAPE) == pytest.approx(expected, rel=0.25)


def test_profiles_that_cannot_be_used(tmp_path):
    with pytest.raises(ConfigError, match="no table that is understood"):
        read_profile("nothing\nof interest\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_profile(tmp_path / "none.txt")
    with pytest.raises(ConfigError, match=r"3 convolutions and linear layers \(Conv2D, .*model has 4"):
        target_from_profile(net(), SHAPE, ST, 100)
    zero = profile_of("cortex_m4").replace(
        "DEPTHWISE_CONV_2D took ", "DEPTHWISE_CONV_2D took 0 ticks (0 ms).\nIGNORED took "
    )
    with pytest.raises(ConfigError, match=r"DEPTHWISE_CONV_2D .* takes 0 ticks: too coarse a clock"):
        target_from_profile(net(), SHAPE, zero, 100)
    with pytest.raises(ConfigError, match="clock_mhz must be a finite number, got nan"):
        target_from_profile(net(), SHAPE, TICKS, float("nan"))


NET = "benchmarks.targets.tflm_networks:perceptron"


def test_the_command_makes_a_target(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(registry, "_OWN", {})  # what is registered here is forgotten after the test
    path = tmp_path / "desk.py"
    arguments = ["calibrate", "--clock", "64", "--name", "desk", "--timing", NET, "256", "3.5"]
    assert main([*arguments, "--output", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "desk: 1 timed network, from the ratios of cortex_m4, 64 MHz" in shown
    assert shown.count(" to ") >= 11
    spec = importlib.util.spec_from_file_location("desk", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    from benchmarks.targets.tflm_networks import perceptron

    assert network_cost(perceptron(), "latency_ms:desk", (256,)) == pytest.approx(3.5, rel=0.02)
    assert get_target("desk").clock_mhz == 64
    assert main([*arguments, "--output", str(path)]) == 2
    assert "a target named 'desk' exists already" in capsys.readouterr().err
    for cost_of in (str(path), f"{path}:TARGET", "desk"):  # its error bars are there again
        assert main(["cost", NET, "--input", "256", "--target", cost_of]) == 0
        assert re.search(r"90 % interval of the time on desk: 3\.\d+ to 4\.\d+ ms", capsys.readouterr().out)
    registry._OWN.clear()
    assert main([*arguments, "--output", str(path)]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_profile_is_of_a_network_on_a_board():
    seed = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(ConfigError, match="the profile is of a PIT: give the network that runs on boards"):
        target_from_profile(PIT(seed, (4,)), (4,), "FULLY_CONNECTED took 9 ticks\n" * 2, 64)
    with pytest.raises(ConfigError, match=r"the profile: .* failed on the example input"):
        target_from_profile(seed, (5,), "FULLY_CONNECTED took 9 ticks\n" * 2, 64)


def test_the_command_takes_tables_and_profiles(tmp_path, capsys):
    table, log = tmp_path / "board.csv", tmp_path / "log.txt"
    table.write_text("kind,in_channels,out_channels,us\nlinear,64,10,90\nlinear,640,128,9000\n")
    assert main(["calibrate", "--clock", "80", "--table", str(table)]) == 0
    assert "2 measured layers" in capsys.readouterr().out
    log.write_text("FULLY_CONNECTED took 400 ticks (0 ms).\n" * 3)
    assert main(["calibrate", "--clock", "80", "--profile", NET, "256", str(log), "--ticks", "1"]) == 0
    assert "profile of 3 layers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the three"),
        (["--timing", NET, "256", "3.5", "--table", "x.csv"], "one of the three"),
        (["--timing", NET, "256", "soon"], "'soon' is no time"),
        (["--timing", NET, "256", "-1"], "give a finite number above 0"),
        (["--timing", NET, "256", "3.5", "--like", "gap8"], "no CPU with the law"),
        (["--table", "no.csv"], "cannot be read"),
        (["--timing", NET, "256", "3.5", "--output", "no/such/folder.py"], "cannot be written"),
    ],
)
def test_command_errors(arguments, message, capsys):
    assert main(["calibrate", "--clock", "64", *arguments]) == 2
    assert message in capsys.readouterr().err
