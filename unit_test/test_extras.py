"""A missing extra is an error that names the command; a broken one keeps its own error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nasopt.errors import MissingExtraError
from nasopt.extras import import_extra


def test_a_missing_package_names_the_command() -> None:
    with pytest.raises(
        MissingExtraError, match=r'somebody needs the package \'not_there\'.*pip install "nasopt\[onnx\]"'
    ):
        import_extra("not_there.inside", "onnx", "somebody")
    assert issubclass(MissingExtraError, ImportError)


def test_a_package_that_is_there_comes_back() -> None:
    assert import_extra("json.decoder", "onnx", "somebody").JSONDecoder


def test_a_broken_package_keeps_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_extra.py").write_text("import what_it_needs\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="what_it_needs") as raised:
        import_extra("broken_extra", "onnx", "somebody")
    assert not isinstance(raised.value, MissingExtraError)
    assert "broken_extra" not in sys.modules
