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


def test_the_timing_that_contradicts_is_named_with_what_the_others_say():
    times = [(*NETS[name], ms("cortex_m4", name)) for name in ("keyword", "mobile", "plain")]
    for i, factor in ((0, 1000.0), (1, 1e-3), (2, 1e6)):
        slipped = [(*one[:2], one[2] * (factor if j == i else 1)) for j, one in enumerate(times)]
        with pytest.raises(ConfigError, match=f"contradict: timing {i + 1} takes ") as found:
            target_from_timings(slipped)
        said = float(str(found.value).split(" takes ")[1].split(" times")[0].replace(",", ""))
        assert said == pytest.approx(max(factor, 1 / factor), rel=0.05)


@pytest.mark.parametrize("factor", [1e-3, 1e3, 1e6, 1e-300, 1e300])
def test_times_in_another_unit(factor):
    times = [(*NETS[name], ms("cortex_m4", name) * factor) for name in ("keyword", "plain")]
    with pytest.raises(ConfigError, match=r"times as (long|short) as the one it is like .* check the units"):
        target_from_timings(times)


def test_a_network_that_is_timed_again_tells_nothing_new():
    once = (*NETS["plain"], np.float32(20.0))
    units = network_units(*NETS["mobile"])
    alone, often = (target_from_timings([once] * n).uncertainty.factor(units) for n in (1, 9))
    assert often == pytest.approx(alone)
    mean = target_from_timings([once, (*NETS["plain"], 28.8)], name="mean")
    assert network_cost(NETS["plain"][0], latency_metric(mean, "ms"), NETS["plain"][1]) == pytest.approx(24, rel=1e-3)
    with pytest.raises(ConfigError, match=r"timing 3 takes 2.0 times as long as timing 1, of the same network"):
        target_from_timings([once, (*NETS["mlp"], 3.0), (*NETS["plain"], 40.0)])


def test_what_is_timed_is_a_network_of_a_board():
    model, shape = NETS["plain"]
    with pytest.raises(ConfigError, match="timing 1 is of a PIT: give the network that runs on boards"):
        target_from_timings([(PIT(model, shape), shape, 3.0)])
    with pytest.raises(ConfigError, match=r"timing 2: .* failed on the example input"):
        target_from_timings([(model, shape, 3.0), (model, (1, *shape), 3.0)])
    with pytest.raises(ConfigError, match=r"candidate 'b': .* failed on the example input"):
        suggest_calibration_models({"a": (model, shape), "b": (model, (9,))}, 1)


def test_targets_in_a_report_have_names_of_their_own():
    model, shape = NETS["plain"]
    first, second = (target_from_timings([(model, shape, time)]) for time in (20.0, 30.0))
    with pytest.raises(ConfigError, match="two targets are named 'my_board'"):
        cost_report(model, shape, targets=[first, second])
    assert len(cost_report(model, shape, targets=["cortex_m4", "Cortex-M4"]).targets) == 1
