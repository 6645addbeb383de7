"""Files get their name whole or not at all, and only plain files are ever replaced: for every format."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nasopt.errors import ConfigError, ExportError
from nasopt.export import to_exported_program, to_int8_onnx, to_onnx
from nasopt.export.file import writable, write_all, write_checked

X = torch.zeros(2, 4)
WRITERS: dict[str, Callable[[Any], Any]] = {
    "onnx": lambda path: to_onnx(nn.Linear(4, 2), path, X),
    "int8": lambda path: to_int8_onnx(nn.Linear(4, 2), path, [X]),
    "program": lambda path: to_exported_program(nn.Linear(4, 2), X, path),
    "any": writable,
}
every_writer = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(path))
        yield path


@every_writer
def test_what_is_no_plain_file_is_never_replaced(
    write: Callable[[Any], Any], tmp_path: Path, pipe: Path, listening: Path
) -> None:
    links = {}
    for name, target in (("to-null", Path("/dev/null")), ("to-pipe", pipe), ("to-folder", tmp_path)):
        links[name] = tmp_path / name
        links[name].symlink_to(target)
    before = Path("/dev/null").lstat()
    for path, kind in (
        ("/dev/null", "a device"),
        (links["to-null"], "a device"),
        (pipe, "a pipe"),
        (links["to-pipe"], "a pipe"),
        (listening, "a socket"),
        (tmp_path, "a folder"),
        (links["to-folder"], "a folder"),
    ):
        with pytest.raises(ConfigError, match=rf" is {kind}"):
            write(path)
    after = Path("/dev/null").lstat()
    assert stat.S_ISCHR(after.st_mode)
    assert (after.st_ino, after.st_rdev) == (before.st_ino, before.st_rdev)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["pipe", "socket", "to-folder", "to-null", "to-pipe"]


@every_writer
def test_names_that_no_file_can_have(write: Callable[[Any], Any], tmp_path: Path) -> None:
    for path, message in (
        ("a\0b.onnx", r"holds a NUL"),
        ("", r"path '' is empty"),
        (tmp_path / ("x" * 300), r"File name too long"),
        ("y/" * 3000 + "z", r"(File name too long|there is no folder)"),
        (b"found.onnx", r"path is a bytes"),
        (7, r"path is a int"),
        (tmp_path / "missing" / "found.onnx", r"there is no folder .*missing\. Create it first"),
        (f"{tmp_path}/found/", r"found/ is the name of a folder"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            write(path)
        assert len(str(caught.value)) < 700
        assert str(caught.value).count("cannot be written") < 2
    assert not list(tmp_path.iterdir())


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link, dangling = tmp_path / "far" / "real.onnx", tmp_path / "link.onnx", tmp_path / "dangling.onnx"
    target.write_bytes(b"older")
    link.symlink_to(target)
    dangling.symlink_to("far/new.onnx")
    for name in (link, dangling):
        report = to_onnx(nn.Linear(4, 2), name, X)
        assert name.is_symlink()
        assert report.path == name.resolve()
        assert report.path.stat().st_size == report.file_bytes
    assert sorted(entry.name for entry in (tmp_path / "far").iterdir()) == ["new.onnx", "real.onnx"]
    loop = tmp_path / "loop.onnx"
    loop.symlink_to(loop)
    with pytest.raises(ConfigError, match=r"a link that leads to itself"):
        writable(loop)


def test_the_longest_name_works_and_rights_stay(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".onnx")
    write_checked(writable(path), b"1", lambda draft: None)
    assert path.read_bytes() == b"1"
    umask = os.umask(0o027)
    try:
        fresh = tmp_path / "fresh"
        write_checked(fresh, b"1", lambda draft: None)
        path.chmod(0o604)
        write_checked(path, b"2", lambda draft: None)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o640
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert path.read_bytes() == b"2"


def test_a_path_is_where_it_was_when_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = writable("found.onnx")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    write_checked(place, b"1", lambda draft: None)
    assert (tmp_path / "found.onnx").read_bytes() == b"1"


def test_something_that_takes_the_name_meanwhile_stays(tmp_path: Path) -> None:
    path = writable(tmp_path / "found.onnx")
    with pytest.raises(ConfigError, match="is a pipe, which is never replaced"):
        write_checked(path, b"1", lambda draft: os.mkfifo(path))
    assert stat.S_ISFIFO(path.lstat().st_mode)
    assert [entry.name for entry in tmp_path.iterdir()] == ["found.onnx"]


def test_files_that_belong_together_come_together(tmp_path: Path) -> None:
    paths = {tmp_path / name: name.encode() for name in ("a", "b", "c")}
    (tmp_path / "b").write_bytes(b"older")

    def fail(drafts: Any) -> None:
        assert [draft.read_bytes() for draft in drafts.values()] == [b"a", b"b", b"c"]
        raise ExportError("no")

    with pytest.raises(ExportError, match="no"):
        write_all(paths, fail)
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b").read_bytes() == b"older"
    write_all(paths, lambda drafts: None)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "b", "c"]
    assert (tmp_path / "b").read_bytes() == b"b"
