"""Predictions against published and measured figures; skipped where the data is not at hand."""

import os
import random
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from benchmarks.targets import few_timings, fits, measurements, validate
from benchmarks.targets.boards import BOARDS
from nasopt.cost import get_target
from nasopt.cost.targets.cortex_law import cortex_law

DATA = Path(os.environ.get("NASOPT_DATA", ".")) / "latency" / "mlperf_tiny_results.csv"
pytestmark = pytest.mark.skipif(not DATA.is_file(), reason="NASOPT_DATA with latency/*.csv is not set")

CORES = ("Cortex-M4", "Cortex-M7", "Cortex-M33")
CLASSES = ("kxk", "pointwise", "depthwise", "linear", "add", "pool")


@pytest.fixture(scope="module")
def pairs():
    return validate.all_pairs()


def error(measured, predicted):
    return 100 * abs(predicted / measured - 1)


@pytest.mark.parametrize("target", ["cortex_m4", "cortex_m7", "cortex_m33"])
def test_networks_left_out_are_within_ten_percent(pairs, target):
    chosen = [pair for pair in pairs if (pair.target, pair.group) == (target, "networks")]
    assert len(chosen) == 4
    assert all(error(pair.measured, pair.left_out) < 10 for pair in chosen)
    assert all(error(pair.measured, pair.fitted) < 5 for pair in chosen)


@pytest.mark.parametrize("board", [b for b in BOARDS if b.core in CORES], ids=lambda board: board.target)
def test_every_version_is_within_ten_percent(pairs, board):
    chosen = [pair for pair in pairs if (pair.target, pair.group) == (board.target, "networks")]
    off = [error(pair.measured, pair.fitted) for pair in chosen]
    assert max(off) < (10 if len(chosen) < 9 else 12)
    assert np.mean(off) < 5


def test_a_board_with_many_timings_predicts_networks_left_out(pairs):
    off = [error(p.measured, p.left_out) for p in pairs if (p.target, p.group) == ("cortex_m7_xcube10", "networks")]
    assert len(off) == 17
    assert np.mean(off) < 5
    assert np.percentile(off, 90) < 11


def test_timings_of_convolutions_say_little_of_linear_layers_but_not_nonsense(pairs):
    """Auto-encoders from convolutional networks alone were up to 8 times too long with other ratios of linear layers."""
    off = [
        pair.left_out / pair.measured
        for pair in pairs
        if (pair.group, pair.name) == ("networks", "ad") and pair.left_out
    ]
    assert len(off) == 18
    assert max(off) < 1.6
    assert min(off) > 0.8


def test_a_few_timings_are_enough(capsys):
    timings = next(board for board in BOARDS if board.target == "cortex_m7_xcube10").timings()
    generator = random.Random(0)
    chosen = {1: [[name] for name in timings], 4: [generator.sample(list(timings), 4) for _ in range(30)]}
    for k, most in ((1, 9), (4, 7)):
        rows = [row for known in chosen[k] for row in few_timings.errors(timings, known)]
        assert 100 * np.mean([off for off, _, _ in rows]) < most
        assert np.mean([covered for _, covered, _ in rows]) > 0.85
    few_timings.main(["--draws", "2"])
    assert "| all others | 4." in capsys.readouterr().out


@pytest.mark.parametrize("kind", CLASSES)
def test_accelerator_layers_left_out_are_within_ten_percent(pairs, kind):
    chosen = [pair for pair in pairs if pair.group == f"{kind}, accelerator"]
    assert np.mean([error(pair.measured, pair.left_out) for pair in chosen]) < 10


def test_gap9_networks_are_within_a_quarter(pairs):
    assert all(error(pair.measured, pair.fitted) < 25 for pair in pairs if pair.target == "gap9_ne16")


def test_ethos_layers_are_within_thirty_percent_in_the_median(pairs):
    chosen = [error(pair.measured, pair.fitted) for pair in pairs if pair.target == "ethos_u55_128"]
    assert len(chosen) == 87
    assert np.median(chosen) < 30


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.target)
def test_shipped_prices_are_the_fitted_ones(board):
    target = get_target(board.target)
    assert target.law == cortex_law(fits.board_prices(board))
    assert target.active_power_mw == pytest.approx(board.power(), abs=0.1)
    assert (target.clock_mhz, target.ram_bytes) == (board.clock_mhz, board.ram_bytes)


def test_the_stm32n6_is_within_eight_percent(pairs):
    off = [error(pair.measured, pair.left_out) for pair in pairs if pair.target == "stm32n6"]
    assert len(off) == 14
    assert np.mean(off) < 8
    assert get_target("stm32n6").law == pytest.approx(fits.fit_n6(fits.n6_timings()), rel=1e-3)


def test_shipped_efr32_law_is_the_fitted_one():
    assert get_target("efr32_mvp").law == fits.fit_efr32(measurements.efr32_layers())


@pytest.mark.parametrize(("network", "macs"), [("ic", 12_501_632), ("kws", 2_656_768), ("vww", 7_489_664)])
def test_rows_have_the_published_macs(network, macs):
    rows = measurements.network_rows(network, frozenset({"conv", "depthwise", "linear"}))
    depthwise = rows[:, 0] == 1
    assert (rows[:, 2:7].prod(1) * np.where(depthwise, 1, rows[:, 1])).sum() == macs


def test_report(pairs, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(validate, "all_pairs", lambda: pairs)
    validate.main(["--plot", str(tmp_path / "plot.png"), "--csv", str(tmp_path / "pairs.csv")])
    printed = capsys.readouterr().out
    assert "| cortex_m4 | networks | 4 |" in printed
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    assert len((tmp_path / "pairs.csv").read_text().splitlines()) == len(pairs) + 1
    assert len(astuple(pairs[0])) == 6


def test_missing_data(monkeypatch, tmp_path):
    from nasopt.errors import ConfigError

    monkeypatch.delenv("NASOPT_DATA")
    with pytest.raises(ConfigError, match="NASOPT_DATA is not set"):
        measurements.data_file("x.csv")
    monkeypatch.setenv("NASOPT_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=r"x\.csv is not in"):
        measurements.data_file("x.csv")
