"""How does a file come to be? Whole and checked, or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from nasopt.errors import ConfigError, ExportError

T = TypeVar("T")


def writable(path: str | os.PathLike[str]) -> Path:
    """The path, after an empty file beside it could be made: asked before any work is done.

    Raises:
        ConfigError: its folder does not exist or takes no files, or it is a folder itself.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: give the name of a file in it, like {path / 'found.onnx'}")
    if not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be written: there is no folder {path.parent}. Create it first")
    draft = _beside(path)
    try:
        draft.touch()
        draft.unlink()
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}): choose another folder") from error
    return path


def write_checked(path: Path, content: bytes, check: Callable[[Path], T]) -> T:
    """Write `content` beside `path`, look at it with `check`, and only then put it in its place.

    Whatever fails, `path` is as it was and nothing else is left.

    Returns:
        What `check` returned.

    Raises:
        ExportError: it cannot be written (a full disk, say).
    """
    draft = _beside(path)
    try:
        try:
            with open(draft, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ExportError(f"{path} cannot be written ({error.strerror}): nothing is left of it") from error
        result = check(draft)
        try:
            os.replace(draft, path)
        except OSError as error:
            raise ExportError(f"{path} cannot be replaced ({error.strerror}): it is as it was") from error
        return result
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.draft{path.suffix}")
