"""CONTRIBUTING.md: its examples run as written, and the files that it names exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nasopt
from nasopt.cost import metrics
from nasopt.graph import registry

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


class Scale(nn.Module):
    """The layer of the example: `(B, C, H, W) -> (B, C, H, W)`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain[None, :, None, None]


def test_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_METRICS", dict(metrics._METRICS))
    monkeypatch.setattr(registry, "_LAYERS", dict(registry._LAYERS))
    seed = nn.Sequential(nn.Conv2d(3, 8, 3), Scale(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    scope: dict[str, Any] = {"nasopt": nasopt, "PIT": nasopt.PIT, "Scale": Scale, "seed": seed}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(block, scope)
    # 8 channels of 30x30 and 4 of 28x28, and the gains: a parameter has one position.
    assert scope["model"].get_cost("activations", discrete=True) == 8 * 30 * 30 + 4 * 28 * 28 + 8
    assert scope["model"].search_space()["searchable_channels"] == 8


def test_files_exist() -> None:
    named = {name for name in re.findall(r"`((?:\w+/)+[\w.]+\.(?:py|md))`", TEXT) if "NAME" not in name}
    assert len(named) > 10
    missing = [name for name in named if not (ROOT / name).exists() and not (ROOT / "nasopt" / name).exists()]
    assert not missing
