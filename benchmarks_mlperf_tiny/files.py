"""Files that survive a kill and tell when they are damaged: atomic replacement, sealed JSON, checkpoints with checksums."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from benchmarks_mlperf_tiny.errors import CheckpointError, DamagedFileError, DamagedFileWarning
from nasopt.seal import is_broken, sealed

FORMAT = 3
# A checkpoint is this, the SHA-256 of what follows in hexadecimal, a line feed, and a file of torch.
MAGIC = b"nasopt checkpoint sha256 "


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
    with contextlib.suppress(PermissionError):  # Windows has no folders that can be opened
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


def write_json(path: Path, content: dict[str, Any]) -> None:
    """`write_atomic` for plain values, sealed: `read_json` tells whether they are still the same."""
    write_text(path, json.dumps(sealed(content), indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` has written.

    Raises:
        DamagedFileError: there is no such file, or its content is another one; the message names it.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} cannot be read ({type(error).__name__}: {error}): remove it") from error
    if not isinstance(content, dict) or is_broken(content):
        raise DamagedFileError(f"{path} is damaged, or was changed: its checksum is another one. Remove it")
    return content


def digest(content: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


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
        buffer = io.BytesIO()
        torch.save(content, buffer)
        payload = buffer.getvalue()
        if path.is_file():
            os.replace(path, previous(path))
        write_bytes(path, MAGIC + digest(payload).encode() + b"\n" + payload)
    except (OSError, RuntimeError) as error:
        if not path.is_file() and previous(path).is_file():
            os.replace(previous(path), path)
        kept = "the previous checkpoint is intact" if path.is_file() else "there is no earlier checkpoint"
        raise CheckpointError(
            f"checkpoint {path} could not be written ({error}); {kept}. "
            f"Make room on the disk and give the same command again to go on from there"
        ) from error


def previous(path: Path) -> Path:
    """Where the checkpoint before the last one lies."""
    return path.with_name(f"{path.name}.previous")


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint and the one before it; nothing happens where there is none."""
    for file in (path, previous(path)):
        file.unlink(missing_ok=True)


def load_checkpoint(path: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The state saved at `path`, or the one before it where that is damaged, or None where there is no checkpoint.

    Only tensors and plain values are read: a checkpoint from elsewhere cannot run code.

    Raises:
        CheckpointError: the files are damaged, of another version, or of a run with other settings.
    """
    cure = "use another --out, or --fresh to discard it"
    # A process that ended between two renames has left the one before.
    latest = path if path.is_file() or not previous(path).is_file() else previous(path)
    try:
        content = _read_checkpoint(latest)
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        content = _read_previous(path, str(error), cure)
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {content['format']}, this version reads format {FORMAT}: {cure}"
        )
    differing = differences(content["config"], config)
    if differing:
        raise CheckpointError(f"checkpoint {path} belongs to a run with other settings ({differing}): {cure}")
    state: dict[str, Any] = content["state"]
    return state


def _read_previous(path: Path, reason: str, cure: str) -> dict[str, Any]:
    try:
        content = _read_checkpoint(previous(path))
    except (FileNotFoundError, DamagedFileError) as error:
        raise CheckpointError(f"checkpoint {path} {reason}, and there is no good one before it: {cure}") from error
    warnings.warn(f"checkpoint {path} {reason}: going on from the one before it", DamagedFileWarning, stacklevel=4)
    return content


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Raises FileNotFoundError and `DamagedFileError`, whose messages go on after "checkpoint PATH"."""
    try:
        head, _, payload = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFileError(f"cannot be read ({error})") from error
    if head != MAGIC + digest(payload).encode():
        is_own = head.startswith(MAGIC)
        raise DamagedFileError(
            "is damaged: its checksum is another one" if is_own else "is no checkpoint of these benchmarks"
        )
    try:
        content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise DamagedFileError(f"cannot be read ({type(error).__name__})") from error
    if not isinstance(content, dict) or not {"format", "config", "state"} <= content.keys():
        raise DamagedFileError("is no checkpoint of these benchmarks")
    return content
