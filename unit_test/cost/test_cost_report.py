"""The cost report and the command line: the same numbers as the metrics, in three forms; what has no price is said."""

import csv
import io
import json

import pytest
import torch
from torch import nn

from benchmarks_mlperf_tiny.networks import resnet8
from nasopt import PIT
from nasopt.cli import main
from nasopt.cost import cost_report, network_cost
from nasopt.errors import ConfigError
from nasopt.nn import adder_separable

torch.set_num_threads(1)
RESNET = ["cost", "benchmarks_mlperf_tiny.networks:resnet8", "--input", "3,32,32"]


def test_totals_are_those_of_the_metrics():
    model = resnet8()
    report = cost_report(model, (3, 32, 32), targets=["cortex_m4", "gap8"])
    totals = report.totals()
    assert (totals["params"], totals["macs"], totals["memory"]) == (77_706, 12_501_632, 49_152)
    for name in ("cortex_m4", "gap8"):
        assert totals["cycles"][name] == network_cost(model, f"latency:{name}", (3, 32, 32))
        assert sum(row[f"{name}_percent"] for row in report.rows()) == pytest.approx(100, abs=0.1)
    live = {row["layer"]: row["live_bytes"] for row in report.rows()}
    assert live["stem"] == 3 * 1024 + 16 * 1024
    assert live["stack1.conv2"] == max(live.values()) == 49_152


def test_three_forms_agree():
    report = cost_report(resnet8(), (3, 32, 32), targets=["gap8"])
    rows = list(csv.DictReader(io.StringIO(report.csv())))
    content = json.loads(report.json())
    assert [int(row["macs"]) for row in rows] == [row["macs"] for row in content["layers"]]
    assert content["totals"]["cycles"]["gap8"] == sum(int(row["gap8_cycles"]) for row in rows)
    assert "12,501,632" in str(report)
    assert "49,152 B" in str(report)


def test_search_model_is_reported_as_it_would_be_exported():
    model = PIT(resnet8(), (3, 32, 32))
    with torch.no_grad():
        model.alpha[::2] = 0
    assert cost_report(model, (3, 32, 32)).totals()["macs"] == model.get_cost("macs", discrete=True)


class Odd(nn.Module):
    """A norm that nothing absorbs, and an operation without a rule."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.GroupNorm(4, 8)

    def forward(self, x):
        return torch.fft.rfft(self.norm(self.conv(x))).abs()


def test_every_call_is_priced_free_or_listed():
    report = cost_report(Odd(), (3, 8, 8), targets=["gap8", "cortex_m4"])
    assert [layer.layer for layer in report.layers] == ["conv", "norm"]
    assert report.unpriced == ("fft_rfft",)
    assert report.free == ("abs_1",)
    norm = report.layers[1]
    assert norm.shape.output_size == (6, 6)
    assert norm.cycles["gap8"] is None
    assert norm.cycles["cortex_m4"] > 8 * 36
    assert report.totals()["without_law"] == {"gap8": ["norm"], "cortex_m4": []}
    assert "gap8 has no law for norm: its total is a lower bound" in str(report)
    assert "without a price, in no total: fft_rfft" in str(report)


def test_unknown_target():
    with pytest.raises(ConfigError, match="unknown target 'cortex_m5'"):
        cost_report(resnet8(), (3, 32, 32), targets=["cortex_m5"])


def test_command_line(capsys):
    assert main([*RESNET, "--target", "cortex_m4"]) == 0
    assert f"{network_cost(resnet8(), 'latency_ms:cortex_m4', (3, 32, 32)):.3f}" in capsys.readouterr().out
    assert main([*RESNET, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["macs"] == 12_501_632
    assert main(["targets"]) == 0
    assert "MLPerf Tiny v1.0, STMicroelectronics" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cost", "benchmarks_mlperf_tiny.networks", "--input", "3"], "does not say which model"),
        (["cost", "no_such_package:net", "--input", "3"], "cannot be imported"),
        (["cost", "benchmarks_mlperf_tiny.networks:resnet9", "--input", "3"], "Did you mean 'resnet8'"),
        (["cost", "benchmarks_mlperf_tiny.networks:norm1d", "--input", "3"], "cannot be called without arguments"),
        ([*RESNET[:3], "3,a"], "give the shape of one sample"),
        ([*RESNET, "--target", "gap7"], "unknown target 'gap7'"),
    ],
)
def test_command_line_errors(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_additions_of_adders_have_a_column():
    adders = nn.Sequential(nn.Conv2d(3, 4, 3), adder_separable(4, 6, 3))
    report = cost_report(adders, (3, 8, 8))
    # 36 positions: 4 * 27 products, then two additions per tap of 4 * 9 and of 4 * 6
    assert report.totals()["additions"] == 36 * (108 + 2 * 36 + 2 * 24)
    assert f"{36 * 2 * 24:,}" in str(report)
    assert "additions" in str(report).splitlines()[0]
    assert "additions" not in str(cost_report(adders[0], (3, 8, 8)))


def test_operations_by_transforms():
    """Large kernels with many channels gain, 1x1 never do; the same numbers in all forms."""
    model = nn.Sequential(
        nn.Conv2d(64, 64, 5, padding=2), nn.ReLU(), nn.Conv2d(64, 8, 1), nn.Flatten(), nn.Linear(7200, 2)
    )
    report = cost_report(model, (64, 30, 30), transform=True)
    rows = report.rows()
    assert rows[0]["direct_ops"] == 2 * 64 * 64 * 25 * 900
    assert rows[0]["transform_ops"] < rows[0]["direct_ops"] / 1.9
    assert rows[1]["transform_ops"] > rows[1]["direct_ops"]
    assert rows[2]["transform_ops"] is None
    assert "transform_ops" in json.loads(report.json())["layers"][0]
    text = str(report).splitlines()
    assert [line.count(" *") for line in text[1:4]] == [1, 1, 0]
