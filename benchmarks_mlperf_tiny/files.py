"""Files that survive a kill: atomic replacement, checkpoints, and the lock on a folder that ends with its owner."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from benchmarks_mlperf_tiny.errors import CheckpointError, FolderLockedError

FORMAT = 2


def write_atomic(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Replace `path` by what `write` puts into a file: temporary file, fsync, rename, fsync of the folder.

    Raises:
        OSError: it could not be written (a full disk, say); `path` is as it was, the temporary file is gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(name, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_bytes(path: Path, content: bytes) -> None:
    """`write_atomic` for bytes at hand."""

    def write(file: BinaryIO) -> None:
        file.write(content)

    write_atomic(path, write)


def write_text(path: Path, text: str) -> None:
    """`write_atomic` for text in UTF-8."""
    write_bytes(path, text.encode())


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Which settings differ, for a message; empty where all are equal."""
    keys = sorted(there.keys() | here.keys())
    differing = [key for key in keys if there.get(key) != here.get(key)]
    return "; ".join(f"{key} {there.get(key)!r} there, {here.get(key)!r} here" for key in differing)


def save_checkpoint(path: Path, config: dict[str, Any], state: dict[str, Any]) -> None:
    """Replace the checkpoint at `path`.

    Args:
        path: of the checkpoint.
        config: settings of the run, plain values.
        state: tensors and plain values.

    Raises:
        CheckpointError: it could not be written; the previous checkpoint is still there and usable.
    """
    content = {"format": FORMAT, "config": config, "state": state}
    try:
        write_atomic(path, lambda file: torch.save(content, file))
    except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
        kept = "the previous checkpoint is intact" if path.is_file() else "there is no earlier checkpoint"
        raise CheckpointError(
            f"checkpoint {path} could not be written ({error}); {kept}. "
            f"Make room on the disk and give the same command again to go on from there"
        ) from error


def load_checkpoint(path: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The state saved at `path`, or None where there is no checkpoint.

    Only tensors and plain values are read: a checkpoint from elsewhere cannot run code.

    Raises:
        CheckpointError: the file is damaged, of another version, or of a run with other settings.
    """
    cure = "use another --out, or --fresh to discard it"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({type(error).__name__}): {cure}") from error
    if not isinstance(content, dict) or not {"format", "config", "state"} <= content.keys():
        raise CheckpointError(f"{path} is not a checkpoint of these benchmarks: {cure}")
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {content['format']}, this version reads format {FORMAT}: {cure}"
        )
    differing = differences(content["config"], config)
    if differing:
        raise CheckpointError(f"checkpoint {path} belongs to a run with other settings ({differing}): {cure}")
    state: dict[str, Any] = content["state"]
    return state


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Own `folder`, which is created if need be, for the duration of the block.

    Args:
        folder: to own.
        wait: until another owner is gone, instead of raising.

    Raises:
        FolderLockedError: another process owns it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise FolderLockedError(
                f"folder {folder} is in use by process {owner}: wait for it to end, or choose another --out"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
