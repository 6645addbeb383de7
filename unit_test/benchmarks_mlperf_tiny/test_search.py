"""The search loop: deterministic, resumable at any moment, the same result as without interruption."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TASK, config, load

import nasopt
from benchmarks_mlperf_tiny.config import RunConfig
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.errors import BenchmarkError, CheckpointError
from benchmarks_mlperf_tiny.outcome import RunResult
from benchmarks_mlperf_tiny.phases import Phase, rate_of, rising, worn_out
from benchmarks_mlperf_tiny.search import Run

METHODS = ["seed", "pit"]
DATA = load(DataOptions())


def finish(settings: RunConfig, checkpoint: Path | None = None) -> RunResult:
    return Run(settings, TASK, DATA, checkpoint, quiet=True).run()


def equal(first: RunResult, second: RunResult) -> bool:
    a, b = first.network.state_dict(), second.network.state_dict()
    same_weights = a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    return (
        same_weights
        and (first.val, first.test, first.history) == (second.val, second.test, second.history)
        and json.dumps(first.structures) == json.dumps(second.structures)
    )


class Killed(BaseException):
    """Ends a run where a kill would."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the optimizer step number `step` end the process."""
    count = 0
    original = torch.optim.Adam.step

    def dying(self: torch.optim.Adam, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == step:
            raise Killed
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", dying)


def finish_in_spite_of_kills(
    make: Callable[[], Run], lives: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> RunResult:
    """A run that is killed at the given optimizer step of each of its lives, and at last is not."""
    for steps in lives:
        with monkeypatch.context() as patch:
            kill_at(patch, steps)
            with pytest.raises(Killed):
                make().run()
    return make().run()


@pytest.fixture(scope="module")
def results() -> dict[str, RunResult]:
    """Of runs that nobody disturbs."""
    return {method: finish(config(method)) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_equal_seeds_give_equal_results(method: str, results: dict[str, RunResult]) -> None:
    assert equal(finish(config(method)), results[method])
    assert not equal(finish(config(method, seed=1)), results[method])


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_ends_as_an_uninterrupted_one(
    method: str, results: dict[str, RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"

    def make() -> Run:
        return Run(config(method), TASK, DATA, path, quiet=True)

    # 5 epochs of 5 steps. Killed at steps 1, 5, 6, 8, 14, 16, 17, 22 and 25 of the whole: in each phase, at each boundary.
    resumed = finish_in_spite_of_kills(make, (1, 5, 6, 3, 9, 6, 2, 7, 5), monkeypatch)
    assert equal(resumed, results[method])
    assert equal(make().run(), results[method]), "a finished run is not trained again"


def test_a_killed_run_that_had_shrunk_ends_as_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, path = config("pit", budget="size=0.4", search=8), tmp_path / "checkpoint.pt"
    made: list[Run] = []

    def make() -> Run:
        made.append(Run(settings, TASK, DATA, path, quiet=True))
        return made[-1]

    # 1 epoch of warm-up, 8 of search, 2 of fine-tuning, 5 steps each: killed in the fall of the limit, after it, at the end.
    resumed = finish_in_spite_of_kills(make, (22, 9, 6, 6), monkeypatch)
    assert made[1].state.phase > 0
    assert equal(resumed, finish(settings))
    assert resumed.history[-3]["cost"] <= 0.4


def test_a_run_killed_in_its_first_epoch_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    for step, is_there in ((5, False), (6, True)):
        with monkeypatch.context() as patch:
            kill_at(patch, step)
            with pytest.raises(Killed):
                finish(config(), path)
        assert path.exists() == is_there


@pytest.mark.parametrize("step", [5, 6, 8, 14])  # in the warm-up in floats, at its end, in the search
def test_a_killed_run_in_few_bits_does_so_too(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config("pit", precision="mixed")
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Killed):
            finish(settings, tmp_path / "checkpoint.pt")
    assert equal(finish(settings, tmp_path / "checkpoint.pt"), finish(settings))


def test_a_sparse_checkpoint_still_ends_every_phase(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    Run(config(), TASK, DATA, path, checkpoint_every=100, quiet=True).run()
    assert path.exists()


def test_phases_in_history() -> None:
    phases = [record["phase"] for record in finish(config()).history]
    assert phases == ["train"] * 3 + ["finetune"] * 2


def test_pit_reduces_the_cost_and_the_result_says_so() -> None:
    result = finish(config("pit", search=6, strength=10.0))
    costs = [record["cost"] for record in result.history if record["phase"].startswith("search")]
    assert costs[-1] < costs[0] <= 1.0
    assert len(result.structures) == 1


def test_divergence_is_named() -> None:
    with pytest.raises(BenchmarkError, match=r"diverged.*smaller --lr"):
        finish(config(lr=1e30, warmup=3))


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    finish(config(), path)
    with pytest.raises(CheckpointError, match=r"seed 0 there, 3 here.*--fresh"):
        finish(config(seed=3), path)


def test_patience_ends_a_phase() -> None:
    result = finish(config(warmup=30, patience=2))
    assert len(result.history) < 30


def test_a_search_presses_gently_at_first_and_comes_to_rest() -> None:
    strength = rising(3.0, epochs=10)
    assert isinstance(strength, nasopt.schedule.Schedule)
    assert [strength(epoch) for epoch in (0, 1, 4, 9)] == pytest.approx([0.6, 1.2, 3.0, 3.0])
    assert rising(3.0, epochs=2) == 3.0
    arch, network = (rate_of("search", is_arch, 10) for is_arch in (True, False))
    assert [arch(epoch) for epoch in (0, 5, 9)] == pytest.approx([1.0, 1.0, 0.2])
    assert [network(epoch) for epoch in (0, 9)] == [1.0, 1.0]
    assert [rate_of("finetune", False, 4)(epoch) for epoch in (0, 2)] == pytest.approx([1.0, 0.5])


def test_worn_out_counts_only_its_phase() -> None:
    phase = Phase("finetune", 10)
    old = [{"phase": "train", "val": 1.0}] * 5
    new = [{"phase": "finetune", "val": value} for value in (0.5, 0.6, 0.6, 0.6)]
    assert not worn_out(old + new[:3], phase, 2)
    assert worn_out(old + new, phase, 2)
    assert not worn_out(old + new, phase, None)


def test_a_search_goes_on_while_its_cost_moves() -> None:
    phase = Phase("search", 10, 0)
    moving = [{"phase": "search1", "val": 0.5, "cost": 1.0 - 0.1 * epoch} for epoch in range(5)]
    resting = [{**record, "cost": 0.5} for record in moving]
    assert not worn_out(moving, phase, 2)
    assert worn_out(resting, phase, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "pitt"}, "unknown method 'pitt'.*Did you mean 'pit'"),
        ({"strength": -1.0, "method": "seed"}, None),  # the seed's strength is 0, whatever is asked for
        ({"lr": float("nan")}, "lr = nan"),
        ({"batch_size": 1}, "batch_size = 1: at least 2"),
        ({"finetune": 0}, "finetune = 0"),
        ({"regularizer": "weight"}, "unknown regularizer 'weight'"),
        ({"device": "gpu9"}, "device 'gpu9' cannot be used"),
        ({"device": "meta"}, "holds no numbers"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], message: str | None) -> None:
    method = changes.pop("method", "seed")
    if message is None:
        assert config(method, **changes).strength == 0
        return
    with pytest.raises(BenchmarkError, match=message):
        config(method, **changes)
