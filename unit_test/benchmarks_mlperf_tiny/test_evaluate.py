"""Saved keyword networks on the official features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks_mlperf_tiny.cli import main


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """20 features in the format of the official file: bright in the row that the label names."""
    y = np.arange(20) % 12
    x = np.zeros((20, 49, 10, 1), np.int8)
    x[np.arange(20), y] = 127
    np.savez(tmp_path / "kws01_eval_int8.npz", x=x, y=y, scale=0.5, zero_point=3)
    return tmp_path


class Brightest(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert float(x.max()) == (127 - 3) * 0.5
        return x.mean((1, 3))[:, :12]


class Rows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 3))


def test_accuracy(features: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(Brightest(), features / "module.pt")
    assert main(["evaluate", str(features / "module.pt"), "--data-dir", str(features)]) == 0
    assert "100.0 %" in capsys.readouterr().out


def test_networks_that_do_not_fit(features: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = features / "module.pt"
    for content, message in ((Rows(), "12 classes"), (nn.Linear(3, 12), "1x49x10"), ([1], "no network")):
        torch.save(content, path)
        assert main(["evaluate", str(path), "--data-dir", str(features)]) == 1
        assert message in capsys.readouterr().err
    path.write_bytes(b"nothing")
    assert main(["evaluate", str(path), "--data-dir", str(features)]) == 1
    assert "cannot be read" in capsys.readouterr().err
