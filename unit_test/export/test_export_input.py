"""What goes wrong when a network leaves torch: the message says where and what to do, and no file is left."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasopt.errors import ConfigError, ExportError, MissingExtraError
from nasopt.export import to_exported_program, to_int8_onnx, to_onnx
from nasopt.export.file import write_checked
from nasopt.nn import BinaryConv2d
from nasopt.nn.packed import PackedBinaryConv2d

X = torch.zeros(2, 4)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: to_int8_onnx(network(), path, []), r"calibration holds no batch.*a few hundred real samples"),
        (lambda path: to_int8_onnx(network(), path, iter(())), r"calibration holds no batch"),
        (lambda path: to_int8_onnx(network(), path, X), r"calibration is a Tensor: give an iterable of batches"),
        (lambda path: to_int8_onnx(network(), path, 3), r"calibration is a int"),
        (lambda path: to_int8_onnx(network(), path, [X[:0]]), r"the example holds no sample"),
        (lambda path: to_onnx(network(), path, X[:0]), r"the example holds no sample"),
        (lambda path: to_onnx(network(), path, X * torch.nan), r"values that are not finite"),
        (lambda path: to_int8_onnx(network(), path, [X], max_batches=0), r"max_batches is 0"),
        (lambda path: to_int8_onnx(network(), path, [X], method="min_max"), r"method 'min_max'.*Did you mean 'minmax'"),
        (lambda path: to_int8_onnx(network(), path, [torch.zeros(2, 5)]), r"Sequential fails on the example"),
        (lambda path: to_int8_onnx(network(), path, ["images"]), r"a batch holds a str"),
        (lambda path: to_int8_onnx(network(), path, [(X, X, X)]), r"a batch holds 3 values, .* takes 1 input"),
        (lambda path: to_onnx("network", path, X), r"found is a str: give the network that arch_export"),
        (lambda path: to_onnx(network(), path, "x"), r"input_example holds no tensor"),
        (lambda path: to_onnx(network(), path, X, targets=["cortex_m5"]), r"cortex_m5.*Did you mean"),
        (
            lambda path: to_onnx(
                nn.Sequential(PackedBinaryConv2d(BinaryConv2d(3, 4, 1))), path, torch.zeros(2, 3, 1, 1)
            ),
            r"layer '0' is a PackedBinaryConv2d.*before pack\(\)",
        ),
    ],
)
def test_arguments_that_cannot_be_used(call: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        call(tmp_path / "found.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [to_onnx, to_exported_program])
def test_a_path_that_cannot_be_written(write: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no folder .*missing\. Create it first"):
        write(network(), path=tmp_path / "missing" / "found.onnx", example=X)
    with pytest.raises(ConfigError, match=r"is a folder: give the name of a file in it"):
        write(network(), path=tmp_path, example=X)
    with pytest.raises(ConfigError, match=r"cannot be written .*choose another folder"):
        write(network(), path=Path("/proc/found.onnx"), example=X)
    with pytest.raises(ConfigError, match=r"there is no folder"):
        to_int8_onnx(network(), tmp_path / "missing" / "found.onnx", [X])
    assert not list(tmp_path.iterdir())


def test_a_failed_check_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "found.onnx"
    path.write_bytes(b"older")
    seen = []

    def check(draft: Path) -> None:
        seen.append(draft.read_bytes())
        raise ExportError("it differs")

    with pytest.raises(ExportError, match="it differs"):
        write_checked(path, b"newer", check)
    assert seen == [b"newer"]
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]
    assert write_checked(path, b"newer", lambda draft: draft.read_bytes()) == b"newer"
    assert path.read_bytes() == b"newer"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ExportError, match=r"found.onnx cannot be written \(No space left on device\): nothing is left"):
        write_checked(tmp_path / "found.onnx", b"newer", lambda draft: None)
    assert not list(tmp_path.iterdir())


class Noisy(nn.Module):
    """What torch and ONNX Runtime draw differs."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Branching(nn.Module):
    """Its path depends on the values of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_an_operation_without_counterpart_is_named(tmp_path: Path) -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.FractionalMaxPool2d(2, output_size=2), nn.Flatten())
    message = (
        r"ONNX has no operation for torch.ops.aten.fractional_max_pool2d, called by layer '1' \(FractionalMaxPool2d\)"
    )
    with pytest.raises(ExportError, match=message):
        to_onnx(layers, tmp_path / "found.onnx", torch.randn(2, 3, 8, 8))
    assert not list(tmp_path.iterdir())


def test_outputs_that_differ_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "found.onnx"
    path.write_bytes(b"older")
    with pytest.raises(ExportError, match=r"outputs of the ONNX file differ .* Random numbers in eval mode"):
        to_onnx(Noisy(), path, X)
    with pytest.raises(ExportError, match=r"rounding changes the outputs by .* \(allowed 0%\)"):
        to_int8_onnx(network(), path, [torch.randn(4, 4)], tolerance=1e-9)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_branch_on_values_is_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match=r"cannot capture Branching.*return x if x.sum\(\) > 0.*torch.where"):
        to_exported_program(Branching(), X)
    assert capfd.readouterr().err == ""


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "found.onnx"
    broken = network()
    with torch.no_grad():
        broken[0].bias[0] = float("inf")
    with pytest.raises(ExportError, match=r"an output of the network is not finite"):
        to_exported_program(broken, X, path)
    with pytest.raises(ConfigError, match=r"calibration batch 1 holds values that are not finite"):
        to_int8_onnx(network(), path, [torch.randn(2, 4), torch.full((2, 4), torch.nan)])
    assert not list(tmp_path.iterdir())


def test_data_that_cannot_be_judged(tmp_path: Path) -> None:
    for data, message in (
        ([], r"data holds no batch"),
        ([X], r"inputs without targets, so top1 cannot be measured"),
        (
            [(torch.zeros(2, 5), torch.zeros(2))],
            r"batch 0 of data: samples have shape \(5,\), the example's have \(4,\)",
        ),
        ([(torch.zeros(0, 4), torch.zeros(0))], r"batch 0 of data holds no sample"),
    ):
        with pytest.raises(ConfigError, match=message):
            to_exported_program(network(), X, tmp_path / "found.pt2", data=data)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_names_the_command(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    command = re.escape('pip install "nasopt[onnx]"')
    with pytest.raises(MissingExtraError, match=rf"to_onnx needs the package '{package}'.*{command}"):
        to_onnx(network(), tmp_path / "found.onnx", X)
    with pytest.raises(MissingExtraError, match=rf"to_int8_onnx needs .*{command}"):
        to_int8_onnx(network(), tmp_path / "found.onnx", [X])
