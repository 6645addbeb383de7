"""Targets from timings of networks: error bars, suggestions, and timings that cannot be used."""

from __future__ import annotations

import math

import numpy as np
import pytest
from torch import nn

from benchmarks.targets.tflm_networks import KeywordNet, mobilenet_v2, perceptron, plain
from nasopt import PIT
from nasopt.cost import (
    cost_report,
    get_target,
    latency_metric,
    network_cost,
    suggest_calibration_models,
    target_from_timings,
)
from nasopt.cost.calibration import PRIOR, fit_prices, network_units
from nasopt.cost.targets.cortex_law import PRICES
from nasopt.errors import ConfigError

NETS = {
    "keyword": (KeywordNet(8), (1, 20, 10)),
    "mobile": (mobilenet_v2(), (3, 32, 32)),
    "plain": (plain((8, 16), True), (3, 16, 16)),
    "mlp": (perceptron(), (256,)),
}


def ms(target: str, name: str) -> float:
    model, shape = NETS[name]
    return float(network_cost(model, f"latency_ms:{target}", shape))


def test_units_are_what_the_law_counts():
    net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1), nn.Flatten(), nn.Linear(32, 5))
    units = dict(zip(PRICES, network_units(net, (4, 4, 4))))
    # 16 positions: 8 x 36 MAC and patches of 36; 2 x 8 MAC and 8 inputs; 160 MAC
    assert (units["kxk"], units["patch"], units["pointwise"], units["pointwise_input"]) == (4608, 576, 256, 128)
    assert (units["linear"], units["call"], units["output"]) == (160, 3, 128 + 32 + 5)
    assert units["weight"] == 288 + 16 + 160
    assert tuple(PRIOR) == PRICES


def test_timings_of_another_board_give_that_board():
    timings = [(*NETS[name], ms("cortex_m33_xcube9", name)) for name in ("keyword", "mobile", "mlp")]
    board = target_from_timings(timings, like="cortex_m4", clock_mhz=160, name="mine", ram_bytes=65_536)
    assert (board.name, board.clock_mhz, board.ram_bytes) == ("mine", 160, 65_536)
    model, shape = NETS["plain"]
    predicted = float(network_cost(model, latency_metric(board, "ms"), shape))
    assert predicted == pytest.approx(ms("cortex_m33_xcube9", "plain"), rel=0.1)
    report = cost_report(model, shape, targets=[board])
    low, high = report.totals()["ms_interval"]["mine"]
    assert low < ms("cortex_m33_xcube9", "plain") < high
    assert f"90 % interval of the time on mine: {low:.3f} to {high:.3f} ms" in str(report)
    assert PIT(plain((8, 16), True), shape, regularizer=board).get_regularization_loss() > 0


def test_more_timings_narrow_the_interval():
    names, widths = list(NETS), []
    units = network_units(*NETS["plain"])
    for k in (1, 2, 3):
        board = target_from_timings([(*NETS[name], ms("cortex_m7", name)) for name in names[:k]], like="cortex_m4")
        widths.append(board.uncertainty.factor(units))
    assert widths == sorted(widths, reverse=True)
    assert 1 < widths[-1] < 1.5


def test_a_common_scale_is_free():
    units = np.stack([network_units(*net) for net in NETS.values()])
    cycles = units @ np.asarray([ratio for ratio, _ in PRIOR.values()])
    for scale in (1e-3, 1.0, 1e4):
        assert fit_prices(units, scale * cycles).prices == pytest.approx(
            scale * np.asarray([r for r, _ in PRIOR.values()])
        )


def test_suggestions_shrink_what_is_unknown_most():
    chosen = suggest_calibration_models(NETS, 3)
    assert len(set(chosen)) == 3
    assert suggest_calibration_models(NETS, 2) == chosen[:2]
    # The second one tells more than a copy of the first.
    twice = {"again": NETS[chosen[0]], **NETS}
    assert {chosen[0], "again"} != set(suggest_calibration_models(twice, 2))
    for k in (0, 5):
        with pytest.raises(ConfigError, match=f"k is {k} of 4 candidates"):
            suggest_calibration_models(NETS, k)


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf, "3", True, None])
def test_times_that_are_none(bad):
    with pytest.raises(ConfigError, match=r"timing 2 is .* give a finite number above 0"):
        target_from_timings([(*NETS["mlp"], 1.0), (*NETS["plain"], bad)])


def test_timings_that_cannot_be_used():
    with pytest.raises(ConfigError, match="no timings"):
        target_from_timings([])
    with pytest.raises(ConfigError, match=r"timing 1 is no triple: give \(model, input_shape, milliseconds\)"):
        target_from_timings([NETS["mlp"]])
    with pytest.raises(ConfigError, match="'gap8' is no CPU"):
        target_from_timings([(*NETS["mlp"], 1.0)], like="gap8")
    with pytest.raises(ConfigError, match="timing 2 is of something without a layer that takes time"):
        target_from_timings([(*NETS["mlp"], 1.0), (nn.Identity(), (4,), 1.0)])
    with pytest.raises(ConfigError, match="'same' has no layer that takes time: leave it out"):
        suggest_calibration_models({"mlp": NETS["mlp"], "same": (nn.Identity(), (4,))}, 1)
    good = [(*NETS[name], ms("cortex_m4", name)) for name in ("keyword", "mobile", "plain")]
    wrong = (*NETS["keyword"], 6 * ms("cortex_m4", "keyword"))
    with pytest.raises(ConfigError, match=r"the timings contradict: timing 4 takes .* times as long"):
        target_from_timings([*good, wrong])
    assert get_target("cortex_m4").uncertainty is None
