"""ExecuTorch programs for Cortex-M: int8 operators of CMSIS-NN. `make executorch` installs what they need."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys.table import randomise

from nasopt.errors import ConfigError, ExportError, MissingExtraError
from nasopt.export import to_executorch

X = torch.zeros(2, 4)


@pytest.fixture
def extra() -> None:
    if find_spec("executorch") is None:
        pytest.skip('executorch is missing: pip install "nasopt[executorch]"')


class Separable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [
            nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 1, 1, groups=8),
        ]
        self.body = nn.Sequential(*layers, nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


def temporal() -> nn.Module:
    layers = [nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 6, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 5))


def folded() -> nn.Module:
    layers = [nn.Unflatten(1, (4, 2, 10)), nn.Conv2d(4, 6, (1, 3)), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))


@pytest.mark.usefixtures("extra")
@pytest.mark.parametrize(("make", "shape"), [(Separable, (3, 8, 8)), (temporal, (4, 20)), (folded, (80,))])
def test_everything_is_an_operator_of_the_core(make: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, path = randomise(make()).train(), tmp_path / "found.pte"
    x = torch.randn(8, *shape)
    report = to_executorch(network, path, [x], [(x, network.eval()(x).argmax(1))], targets=["cortex_m4"], core="M7")
    assert [entry.name for entry in tmp_path.iterdir()] == ["found.pte"]
    assert report.file_bytes == path.stat().st_size
    assert report.int8_difference < 0.1
    assert report.accuracy["torch"] == 1.0
    assert report.accuracy["int8"] > 0.8
    assert report.device.in_float == ()
    assert sum(n for kind, n in report.device.operations.items() if kind.startswith("cortex_m.quantized_")) >= 3
    assert report.costs[0].memory_bytes <= report.device.planned < 20 * report.costs[0].memory_bytes
    assert "the file was loaded, not run" in str(report)
    assert "Cortex-M7" in str(report)


@pytest.mark.usefixtures("extra")
def test_bad_input_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "found.pte"
    network = nn.Linear(4, 2)
    for arguments, message in (
        (([],), "calibration holds no batch"),
        (([X * torch.nan],), "holds values that are not finite"),
        (([X, X[:, :3]],), r"calibration batch 1: samples have shape \(3,\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            to_executorch(network, path, *arguments)
    with pytest.raises(ConfigError, match=r"core 'M5': use M0, .*Did you mean 'M"):
        to_executorch(network, path, [X], core="M5")
    with pytest.raises(ConfigError, match="is a device, which is never replaced"):
        to_executorch(network, "/dev/null", [X])
    with pytest.raises(ExportError, match="rounding changes the outputs"):
        to_executorch(network, path, [torch.randn(4, 4)], tolerance=1e-9)
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "executorch.exir", None)
    with pytest.raises(
        MissingExtraError, match=r"to_executorch needs .*'executorch.*pip install \"nasopt\[executorch\]\""
    ):
        to_executorch(nn.Linear(4, 2), tmp_path / "found.pte", [X])
    assert not list(tmp_path.iterdir())
