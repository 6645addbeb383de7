"""Checkpoints: the old one or the new one, never a mixture; foreign and damaged files are named."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from damage import damages

from benchmarks_mlperf_tiny import files
from benchmarks_mlperf_tiny.errors import CheckpointError, DamagedFileError, DamagedFileWarning, FolderLockedError
from benchmarks_mlperf_tiny.files import (
    load_checkpoint,
    read_json,
    save_checkpoint,
    write_atomic,
    write_json,
    write_text,
)
from benchmarks_mlperf_tiny.lock import locked

CONFIG = {"task": "ic", "seed": 0}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "checkpoint.pt"
    save_checkpoint(path, CONFIG, {"w": torch.arange(3.0), "epoch": 2})
    state = load_checkpoint(path, CONFIG)
    assert state is not None
    assert state["epoch"] == 2
    assert torch.equal(state["w"], torch.arange(3.0))
    assert load_checkpoint(tmp_path / "none.pt", CONFIG) is None


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONFIG, {"epoch": 1})

    def full(content: Any, file: BinaryIO) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.torch, "save", full)
    with pytest.raises(CheckpointError, match=r"No space left.*previous checkpoint is intact.*Make room"):
        save_checkpoint(path, CONFIG, {"epoch": 2})
    monkeypatch.undo()
    assert load_checkpoint(path, CONFIG) == {"epoch": 1}
    assert os.listdir(tmp_path) == ["checkpoint.pt"], "no temporary file is left"


def test_a_file_that_cannot_grow_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    """The operating system refuses the write, as it does on a full disk."""
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONFIG, {"epoch": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CheckpointError, match="previous checkpoint is intact"):
            save_checkpoint(path, CONFIG, {"epoch": 2, "w": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(path, CONFIG) == {"epoch": 1}
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


def test_a_write_that_fails_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_text(path, "old")

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, write)
    assert path.read_text() == "old"


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 damaged"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is no checkpoint .* no good one before it: .*--fresh"):
        load_checkpoint(path, CONFIG)


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONFIG, {"w": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="is damaged: its checksum is another one"):
        load_checkpoint(path, CONFIG)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"weights": 1}, path)
    with pytest.raises(CheckpointError, match="is no checkpoint of these benchmarks"):
        load_checkpoint(path, CONFIG)


def test_another_version_and_another_task_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONFIG, {})
    with pytest.raises(CheckpointError, match=r"task 'ic' there, 'kws' here"):
        load_checkpoint(path, {**CONFIG, "task": "kws"})
    monkeypatch.setattr(files, "FORMAT", 99)
    with pytest.raises(CheckpointError, match="has format 3, this version reads format 99"):
        load_checkpoint(path, CONFIG)


@pytest.mark.parametrize("seed", range(6))
def test_damaged_checkpoints_are_never_read(tmp_path: Path, seed: int) -> None:
    """Whatever happens to its bytes, a checkpoint is read as it was, or the one before it is, with a warning."""
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONFIG, {"epoch": 1})
    save_checkpoint(path, CONFIG, {"epoch": 2, "w": torch.arange(40.0)})
    good = path.read_bytes()
    for bad in damages(good, 5, seed):
        path.write_bytes(bad)
        with pytest.warns(DamagedFileWarning, match=r"checkpoint\.pt .* going on from the one before it"):
            assert load_checkpoint(path, CONFIG) == {"epoch": 1}
    previous = path.with_name("checkpoint.pt.previous")
    previous.write_bytes(good[:-1])
    with pytest.raises(CheckpointError, match="there is no good one before it"):
        load_checkpoint(path, CONFIG)


def test_the_checkpoint_before_is_used_where_the_last_was_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONFIG, {"epoch": 1})
    path.rename(path.with_name("checkpoint.pt.previous"))
    assert load_checkpoint(path, CONFIG) == {"epoch": 1}


def test_sealed_values(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    write_json(path, {"strength": 0.1, "names": ["a"]})
    assert read_json(path)["strength"] == 0.1
    text = path.read_text()
    for bad in (text.replace("0.1", "0.2"), text.replace("sha256", "sha255"), text[:-5], "[]", ""):
        path.write_text(bad)
        with pytest.raises(DamagedFileError, match=r"job\.json (is damaged|cannot be read)"):
            read_json(path)


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from benchmarks_mlperf_tiny.lock import locked\n"
        "with locked(Path(sys.argv[1])): pass"
    )
    with locked(tmp_path):
        with pytest.raises(FolderLockedError, match=f"in use by process {os.getpid()}"), locked(tmp_path):
            pass
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
        assert "FolderLockedError" in other.stderr
    with locked(tmp_path):  # free again
        pass
