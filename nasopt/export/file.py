"""Atomic, verified file writing: a file gets its name only after it loads and matches, and only plain files are replaced."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from nasopt.errors import ConfigError, ExportError

T = TypeVar("T")

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def writable(path: str | os.PathLike[str]) -> Path:
    """Where the file will lie, absolute and with links followed, after an empty file beside it could be made.

    Asked before any work is done. A link stays a link: what it points to is written.

    Raises:
        ConfigError: the path is no path, its folder does not exist or takes no files, or something that is no plain file
            (a folder, a device, a pipe) has the name.
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise ConfigError(f"path is a {type(path).__name__}: give the name of the file to write as a string or a Path")
    text = os.fspath(path)
    shown = text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
    if not text or "\0" in text:
        raise ConfigError(f"path {shown!r} {'holds a NUL' if text else 'is empty'}: give the name of the file to write")
    try:
        place = Path(os.path.realpath(text))
        _refuse_other_kinds(place, shown)
        if not place.parent.is_dir():
            raise ConfigError(f"{shown} cannot be written: there is no folder {place.parent}. Create it first")
        if text.endswith(os.sep):
            raise ConfigError(f"{shown} is the name of a folder: give the name of a file")
        _name_fits(place)
        _new_draft(place).unlink()
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{shown} cannot be written ({reason}): choose another folder or another name") from error
    return place


def _name_fits(place: Path) -> None:
    """Raises the system's own error where the name is too long, which a draft with another name would not show."""
    try:
        place.lstat()
    except FileNotFoundError:
        return
    if not os.access(place, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(place))


def _refuse_other_kinds(place: Path, shown: str) -> None:
    try:
        kind = stat.S_IFMT(place.lstat().st_mode)
    except FileNotFoundError:
        return
    if kind == stat.S_IFDIR:
        raise ConfigError(f"{shown} is a folder: give the name of a file in it, like {place / 'found.onnx'}")
    if kind == stat.S_IFLNK:  # real paths have none but those that point to themselves
        raise ConfigError(f"{shown} is a link that leads to itself: choose another name")
    if kind != stat.S_IFREG:
        raise ConfigError(
            f"{shown} is {KINDS.get(kind, 'no plain file')}, which is never replaced: choose another name"
        )


def write_checked(path: Path, content: bytes, check: Callable[[Path], T]) -> T:
    """Write `content` beside `path`, look at it with `check`, and only then put it in its place.

    Whatever fails, `path` is as it was and nothing else is left.

    Args:
        path: as `writable` gives it.
        content: of the file.
        check: is given the draft and raises where it is not good.

    Returns:
        What `check` returned.

    Raises:
        ExportError: it cannot be written (a full disk, say).
    """
    return write_all({path: content}, lambda drafts: check(drafts[path]))


def write_all(files: Mapping[Path, bytes], check: Callable[[Mapping[Path, Path]], T]) -> T:
    """As `write_checked`, for files that belong together: `check` is given the draft of each path."""
    drafts: dict[Path, Path] = {}
    try:
        for path, content in files.items():
            try:
                drafts[path] = _new_draft(path)
                with open(drafts[path], "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise ExportError(f"{path} cannot be written ({error.strerror}): nothing is left of it") from error
        result = check(drafts)
        for path, draft in drafts.items():
            _refuse_other_kinds(path, os.fspath(path))  # something may have taken the name meanwhile
            try:
                os.replace(draft, path)
            except OSError as error:
                raise ExportError(f"{path} cannot be replaced ({error.strerror}): it is as it was") from error
        return result
    finally:
        for draft in drafts.values():
            with contextlib.suppress(OSError):
                draft.unlink()


def _new_draft(path: Path) -> Path:
    """An empty file beside `path`, with its ending, and with the access rights that it has or would have."""
    draft = path.with_name(f".nasopt-{secrets.token_hex(8)}.draft{path.suffix[:16]}")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        if path.exists():
            os.fchmod(descriptor, stat.S_IMODE(path.stat().st_mode))
    finally:
        os.close(descriptor)
    return draft
