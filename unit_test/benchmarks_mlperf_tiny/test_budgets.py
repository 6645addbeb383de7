"""Limits in place of strengths: read, kept by the search, shown, and in a sweep's rows."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import tiny

from benchmarks_mlperf_tiny.cli import main
from benchmarks_mlperf_tiny.config import make_config
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.limits import Limit, absolute, kept, parse_budget
from benchmarks_mlperf_tiny.tasks import TASKS, get_task
from benchmarks_mlperf_tiny.training import Engine

SEED = {"macs": 1000, "size": 100, "memory": 50, "cortex_m4_ms": 8.0, "gap8_ms": 0.9}


@pytest.fixture(autouse=True)
def _tiny_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "tiny", tiny.TASK)


def test_shares_and_units() -> None:
    assert parse_budget("macs=0.5,size=40") == (Limit("macs", 0.5, True), Limit("size", 40.0, False))
    values = [value for _, value in absolute("macs=0.5,size=40,gap8_ms=0.3", SEED)]
    assert values == [500.0, 40.0, 0.3], "a latency is never a share"
    assert Limit("gap8_ms", 0.3, False).metric_name == "latency_ms:gap8"


def test_kept() -> None:
    found = {"macs": 500, "size": 41, "memory": 50, "cortex_m4_ms": 8.0, "gap8_ms": 0.3}
    assert kept("macs=0.5,gap8_ms=0.3", SEED, found)
    assert not kept("macs=0.5,size=40", SEED, found)


@pytest.mark.parametrize("text", ["", "macs", "mac=1", "macs=x", "macs=0", "macs=-1", "macs=nan", "macs=1,macs=2"])
def test_budgets_that_make_no_sense(text: str) -> None:
    with pytest.raises(BenchmarkError, match=r"budget .*give metric=limit, like macs=0\.5"):
        tiny.config("pit", budget=text)


def test_a_budget_has_no_strength() -> None:
    assert tiny.config("pit", budget="macs=0.5").strength == 0
    assert tiny.config("seed", budget="macs=0.5").budget is None
    with pytest.raises(BenchmarkError, match="takes the place of strength"):
        tiny.config("pit", budget="macs=0.5", strength=1.0)


def test_a_search_keeps_to_its_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--task", "tiny", "--budget", "macs=0.4,size=0.6", "--search", "6", "--no-baseline"]
    assert main(["search", *arguments, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "kept" in shown.out
    assert "budget 40.0 %" in shown.err, "the bar shows cost and limit"
    summary = json.loads((tmp_path / "tiny-patterns-pit-macs=0.4,size=0.6-s0" / "summary.json").read_text())
    assert summary["found"]["macs"] <= 0.4 * summary["seed"]["macs"]
    assert summary["found"]["size"] <= 0.6 * summary["seed"]["size"]
    assert summary["found"]["macs"] > 0.2 * summary["seed"]["macs"], "limits are used"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "size=1"], "the smallest network of this search space costs"),
        (["--method", "supernet"], "needs a supernet, task 'tiny' has none: try pit"),
        (["--method", "nasb"], "no stage that can become a cell"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_the_seed_is_trained(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def train_epoch(*_arguments: object) -> float:
        raise AssertionError("something is trained")

    monkeypatch.setattr(Engine, "train_epoch", train_epoch)
    monkeypatch.setitem(TASKS, "tiny", dataclasses.replace(tiny.TASK, where=None))
    assert main(["search", "--task", "tiny", "--quiet", "--out", str(tmp_path), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_sweep_over_budgets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--task", "tiny", "--quiet", "--out", str(tmp_path)]
    assert main(["sweep", *options, "--budget", "macs=0.5", "--strengths", "1"]) == 1
    assert "give one of them" in capsys.readouterr().err
    assert main(["sweep", *options, "--budget", "macs=0.5", "--budget", "size=1"]) == 1
    assert "the smallest network of this search space costs" in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "nothing has been started"
    command = [*options, "--search", "4", "--budget", "macs=0.5", "--budget", "macs=0.3"]
    from benchmarks_mlperf_tiny import commands
    from benchmarks_mlperf_tiny.jobs import run_job
    from benchmarks_mlperf_tiny.runner import Outcome

    class HereRunner:
        def __init__(self, *_arguments: object) -> None: ...

        def run(self, folders: Iterable[Path]) -> Iterator[Outcome]:
            for folder in folders:
                run_job(folder)
                yield Outcome(folder, 0, "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "LocalRunner", HereRunner)
        assert main(["sweep", *command]) == 0
    with open(tmp_path / "networks.csv", newline="") as file:
        rows = {row["budget"]: int(row["macs"]) for row in csv.DictReader(file)}
    assert rows["macs=0.5"] <= 0.5 * rows[""]
    assert rows["macs=0.3"] <= 0.3 * rows[""]


def test_a_recipe_has_limits_where_nothing_else_is_said() -> None:
    task = get_task("ic")
    plain = make_config(task, None, "pit")
    assert (plain.budget, plain.strength) == (task.dataset(None).recipe.budget, 0.0)
    assert plain.budget is not None
    assert make_config(task, None, "pit", budget="macs=0.5").budget == "macs=0.5"
    for method, told in (
        ("pit", {"strength": 2.0}),
        ("pit", {"regularizer": "size"}),
        ("pit", {"relative": False}),
        ("pit", {"precision": "8"}),
        ("supernet", {}),
        ("pit_supernet", {}),
        ("nasb", {}),
    ):
        config = make_config(task, None, method, **told)
        assert config.budget is None
        assert config.strength > 0
    assert make_config(task, "cifar10_12k", "pit").budget is None
    assert make_config(task, None, "seed").budget is None
