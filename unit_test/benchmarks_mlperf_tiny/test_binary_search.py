"""The search loop with NASB: alternating steps, three stages, resumable, and a summary that counts bits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_search import finish_in_spite_of_kills
from tiny import TASK, config, load
from torch import nn

from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.data.splits import Split
from benchmarks_mlperf_tiny.outcome import RunResult
from benchmarks_mlperf_tiny.search import Run
from benchmarks_mlperf_tiny.summary import summarise, text_table
from nasopt.nn import BinaryConv2d, TwinConv2d


def build_seed(num_classes: int) -> nn.Module:
    """A stem, a stage of two convolutions that becomes a cell, a classifier."""
    stage = [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
    head = [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)]
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Sequential(*stage, nn.BatchNorm2d(8)), *head
    )


STAGED = dataclasses.replace(TASK, seed=build_seed)
DATA = load(DataOptions())


def make_run(checkpoint: Path | None = None) -> Run:
    return Run(config("nasb"), STAGED, DATA, checkpoint, quiet=True)


@pytest.fixture(scope="module")
def result() -> RunResult:
    return make_run().run()


def test_three_stages_and_what_comes_of_them(result: RunResult) -> None:
    assert [record["phase"] for record in result.history] == ["warmup", "search1", "pretrain", "finetune", "finetune"]
    kinds = [type(module) for module in result.network.modules()]
    assert kinds.count(BinaryConv2d) >= 2
    assert TwinConv2d not in kinds
    assert all(parameter.requires_grad for parameter in result.network.parameters())
    assert all(module.momentum == 0.1 for module in result.network.modules() if isinstance(module, nn.BatchNorm2d))
    summary = summarise(config("nasb"), STAGED, build_seed(2), None, result, True)
    table = text_table(json.loads(json.dumps(summary)))
    assert "size [bits]" in table
    assert "BinaryConv2d" in json.dumps(summary["found"]["layers"])
    # The stage holds 1,168 of the seed's 1,266 weights.
    assert summary["found"]["size_bits"] < summary["seed"]["size_bits"] / 5


def test_a_killed_run_ends_as_an_uninterrupted_one(
    result: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the search, at its end and in the pre-training of the twin: steps 7, 11 and 16 of the whole.
    again = finish_in_spite_of_kills(lambda: make_run(tmp_path / "checkpoint.pt"), (7, 6, 6), monkeypatch)
    assert again.history == result.history
    assert again.structures == json.loads(json.dumps(result.structures))
    weights = result.network.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in again.network.state_dict().items())


def test_a_step_trains_one_half_on_one_half_of_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    run.model = run.build_network()
    run.state.phase = 1
    run.enter_phase()
    seen: list[dict[str, Any]] = []
    original = torch.optim.Adam.step

    def watched(self: torch.optim.Adam, *args: Any, **kwargs: Any) -> Any:
        arch = {id(parameter) for parameter in run.model.arch_parameters()}
        kinds = [id(p) in arch for p in [*run.model.net_parameters(), *run.model.arch_parameters()] if p.requires_grad]
        assert {id(p) in arch for group in self.param_groups for p in group["params"]} == set(kinds)
        seen.append({"net": False in kinds, "arch": True in kinds})
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    run.run_phase(0.0)
    assert seen == [{"net": False, "arch": True}, {"net": True, "arch": False}] * 2


def test_halves_never_mix() -> None:
    split = Split(torch.arange(21.0), torch.arange(21))
    for seed in range(3):
        batches = list(split.alternating(4, torch.Generator().manual_seed(seed)))
        assert len(batches) == 4
        assert [set((y % 2).tolist()) for _, y in batches] == [{0}, {1}] * 2
