"""The tutorials run from top to bottom, with few epochs."""

from __future__ import annotations

import csv
import functools
import importlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nasopt.cost import cost_report, get_target, network_cost
from nasopt.cost.latency import layer_cycles
from nasopt.cost.targets import registry
from nasopt.graph.layer_shape import LayerShape
from nasopt.search import regularizer

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def own_model() -> Any:
    return importlib.import_module("examples.own_model")  # and with it scikit-learn: not while tests are collected


@pytest.fixture(scope="module")
def own_target() -> Any:
    return importlib.import_module("examples.own_target")


def test_own_model(own_model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = own_model.main(epochs=1)
    shown = capsys.readouterr().out
    assert "searchable: 96 of 106 channels" in shown
    assert "search 1/1" in shown
    assert own_model.accuracy(found, own_model.digits()[1]) > 0.2  # guessing gives a tenth
    assert not any("nasopt" in type(module).__module__ for module in found.modules())


def test_own_target(
    own_model: Any, own_target: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_OWN", {})  # what is registered here is forgotten after the test
    found = own_target.main(epochs=1)
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if "/3:" in line] == ["warmup", "search", "finetune"]
    seed, own = (cost_report(net, SHAPE, targets=["my_board"]).totals() for net in (own_model.DigitNet(), found))
    assert own["ms"]["my_board"] <= seed["ms"]["my_board"] / 3
    assert own["params"] <= seed["params"] / 2


def test_keyword_in_few_bits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tutorial = importlib.import_module("examples.keyword_in_few_bits")
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(2, 1, 49, 10, generator=generator), torch.tensor([0, 1])) for _ in range(4)]
    monkeypatch.setattr(regularizer, "FEWEST", 4)  # steps of a search
    monkeypatch.setattr(tutorial, "words", lambda: (batches, batches[:1], 2))
    monkeypatch.setattr(tutorial.KeywordNet, "__init__", functools.partialmethod(tutorial.KeywordNet.__init__, width=6))
    found = tutorial.main(["--epochs", "1", "--flash", "600", "--out", str(tmp_path / "c")])
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if "accuracy" in line] == ["warmup", "search", "finetune"]
    assert float(re.findall(r"differ by (\S+) at most", shown)[0]) < 1e-9
    assert network_cost(found, "flash", (1, 49, 10)) <= 600
    assert bool(shutil.which("cc")) == (tmp_path / "c" / "network.c").exists()


def test_the_measurements_are_what_the_tutorial_says(own_target: Any) -> None:
    target = get_target("cortex_m33")
    with own_target.TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    for row in rows:
        size = tuple(int(n) for n in row["output_size"].split("x"))
        kernel = tuple(int(n) for n in row["kernel"].split("x"))
        channels = int(row["in_channels"]), int(row["out_channels"])
        if row["kind"] == "linear":
            shape = LayerShape("linear", *channels)
        else:
            shape = LayerShape("conv", *channels, kernel, size[0] * size[1], size, (1, 1))
        ms = layer_cycles(target, shape) / target.clock_mhz / 1e3
        assert float(row["ms"]) == pytest.approx(ms, rel=1e-3), row
