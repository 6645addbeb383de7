"""Searches between branches run the whole way, and what they find is a plain network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import TASK, config, load
from torch import nn

import nasopt
from benchmarks_mlperf_tiny import export_int8
from benchmarks_mlperf_tiny.config import start_of
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.methods import wrap
from benchmarks_mlperf_tiny.search import Run
from benchmarks_mlperf_tiny.summary import run_name
from nasopt.cost import network_cost
from nasopt.errors import NasoptError


@pytest.mark.parametrize(
    ("method", "stages"),
    [("supernet", ["SuperNet"]), ("pit_supernet", ["PITSuperNet"]), ("pit_after_supernet", ["SuperNet", "PIT"])],
)
def test_the_whole_way(method: str, stages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []

    def wrapped(*args: Any) -> Any:
        model = wrap(*args)
        shares.append(float((model.get_regularization_loss() / model.get_macs()).detach()))
        return model

    monkeypatch.setattr("benchmarks_mlperf_tiny.search.wrap", wrapped)
    settings = config(method, search=6, strength=3.0)
    run = Run(settings, TASK, load(DataOptions()), quiet=True)
    result = run.run()
    assert [structure["method"] for structure in result.structures] == stages
    assert {type(m) for m in result.network.modules()} & {nn.Identity, nasopt.SuperNetModule} == set()
    seed = network_cost(TASK.seed(2), "macs", (1, 8, 8))
    assert shares == pytest.approx([1 / seed] * len(stages))  # the seed's cost is 1 in every stage
    assert network_cost(result.network, "macs", (1, 8, 8)) < seed
    network = TASK.supernet(2)
    for structure in result.structures:
        network = nasopt.restore(network, structure)
    network.load_state_dict(result.network.state_dict())
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(network.eval()(x), result.network.eval()(x))
    assert len(result.history) == settings.warmup + settings.search + settings.finetune


def test_candidates_by_name() -> None:
    """`--candidates a,b` reaches the search space, and nothing changes where it is not given."""
    settings = config("supernet", candidates="conv5x5,separable")
    choice = next(m for m in start_of(settings, TASK, 2).modules() if isinstance(m, nasopt.SuperNetModule))
    assert len(choice.branches) == 3  # what stood there, a wider kernel, a separable one
    assert "candidates" not in config("supernet").as_dict()
    assert run_name(settings) != run_name(config("supernet"))
    with pytest.raises(NasoptError, match=r"unknown candidate 'seperable'.*separable"):
        start_of(config("supernet", candidates="seperable"), TASK, 2)
    with pytest.raises(BenchmarkError, match="'pit' has none"):
        config("pit", candidates="separable")
    assert config("seed", candidates="separable").candidates is None


def test_the_exporter_takes_the_options_of_a_search(capsys: pytest.CaptureFixture[str]) -> None:
    assert export_int8.main(["--task", "ic", "--budget", "macs=0.5", "--strength", "1"]) == 1
    assert "a budget takes the place of strength" in capsys.readouterr().err
