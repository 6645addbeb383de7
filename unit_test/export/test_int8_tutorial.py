"""The third tutorial runs, shortened, and ends with a file that is as good as the network."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_the_tutorial_writes_an_int8_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from examples import supernet_pit_int8  # and with it scikit-learn: not while tests are collected

    report = supernet_pit_int8.main(["--epochs", "1", "--out", str(tmp_path / "found.onnx")])
    assert [path.name for path in tmp_path.iterdir()] == ["found.onnx"]
    assert report.accuracy["torch"] > 0.5
    assert report.accuracy["int8"] == pytest.approx(report.accuracy["torch"], abs=0.03)
    shown = capsys.readouterr().out
    assert shown.index("SuperNet of") < shown.index("PIT of") < shown.index("int8 ONNX in QDQ form")
