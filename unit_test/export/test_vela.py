"""Arm's compiler for Ethos-U reads the int8 files. `make litert` installs what these tests need."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from nasopt.errors import ConfigError, ExportError, MissingExtraError
from nasopt.export import to_tflite, vela_cost


@pytest.fixture
def extra() -> None:
    for package in ("litert_torch", "tflite_micro", "ethosu"):
        if find_spec(package) is None:
            pytest.skip(f'{package} is missing: pip install "nasopt[litert,vela]"')


@pytest.mark.usefixtures("extra")
def test_a_file_is_compiled_for_an_accelerator(tmp_path: Path) -> None:
    path = tmp_path / "found.tflite"
    network = nn.Sequential(
        nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.AvgPool2d(12), nn.Flatten()
    )
    to_tflite(network, path, [torch.randn(4, 8, 16, 16)])
    small, large = vela_cost(path, "ethos-u55-32"), vela_cost(path, "ethos-u55-256")
    macs = 14 * 14 * 16 * 72 + 12 * 12 * 16 * 144
    assert macs / 32 <= small.cycles
    assert macs / 256 <= large.cycles < small.cycles
    assert 14 * 14 * 16 <= large.sram_bytes < 100_000  # the first convolution's output, at least
    assert (small.npu, small.cpu) == (3, 0)
    assert f"{small.cycles:,} cycles" in str(small)
    assert [entry.name for entry in tmp_path.iterdir()] == ["found.tflite"]
    with pytest.raises(ConfigError, match=r"accelerator 'u55': use a name like"):
        vela_cost(path, "u55")
    with pytest.raises(ExportError, match=r"Vela cannot compile .* for ethos-u55-7"):
        vela_cost(path, "ethos-u55-7")
    with pytest.raises(ConfigError, match="is no file"):
        vela_cost(tmp_path / "missing.tflite")


def test_a_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ethosu.vela", None)
    with pytest.raises(MissingExtraError, match=r"vela_cost needs .*'ethosu.*pip install \"nasopt\[vela\]\""):
        vela_cost("found.tflite")
