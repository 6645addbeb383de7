"""Numbers of a search by name, and the writers that take them."""

from __future__ import annotations

import csv
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nasopt import PIT, PITSuperNet, SuperNetModule, track
from nasopt.errors import ConfigError, MissingExtraError


def search() -> PITSuperNet:
    choice = SuperNetModule([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)])
    seed = nn.Sequential(nn.Conv2d(3, 4, 3), choice, nn.Conv2d(4, 2, 1))
    return PITSuperNet(seed, (3, 6, 6), regularizer="macs", branch_masks="shared")


def test_numbers_by_name() -> None:
    model = search()
    with torch.no_grad():
        model.alpha[0] = 0
        model.choice_logits.copy_(torch.tensor([0.0, math.log(3)]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    values = track.scalars(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert values["cost/macs"] == model.get_cost("macs", discrete=True)
    assert values["cost_of_seed/macs"] == pytest.approx(
        values["cost/macs"] / model.search_space()["cost"]["macs"]["seed"]
    )
    assert values["channels/0"] == 3
    assert values["channels/2"] == 2
    assert values["probability/1/1"] == pytest.approx(0.75)
    assert values["entropy/1"] == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    assert values["temperature"] == 1
    masks = track.scalars(PIT(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)), (3, 6, 6)))
    assert not [name for name in masks if name.startswith(("probability", "entropy", "temperature"))]


def test_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[dict[str, float], int]] = []
    monkeypatch.setitem(
        sys.modules, "mlflow", types.SimpleNamespace(log_metrics=lambda v, step: told.append((v, step)))
    )
    model = PIT(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)), (3, 6, 6))
    path = tmp_path / "new" / "curves.csv"
    own: list[Any] = []
    for step in range(2):
        writers = [track.csv_file(path), track.mlflow(), lambda values, step: own.append((values, step))]
        values = track.log(model, step, writers, loss=0.5)
    assert own == told == [(values, 0), (values, 1)]
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(values)
    assert {(row["step"], row["name"]): float(row["value"]) for row in rows}["1", "loss"] == 0.5


def test_what_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = PIT(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)), (3, 6, 6))
    with pytest.raises(ConfigError, match="track takes a search model, got Linear"):
        track.scalars(nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="loss must be a finite number, got nan"):
        track.log(model, 0, [], loss=math.nan)
    with pytest.raises(ConfigError, match="step must be an int"):
        track.log(model, -1, [])
    for name in ("tensorboard", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"nasopt\[tensorboard\]"):
        track.tensorboard(tmp_path)
    with pytest.raises(MissingExtraError, match=r"nasopt\[mlflow\]"):
        track.mlflow()
