"""How do two processes stay out of one results folder? A lock that the operating system drops when its owner dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks_mlperf_tiny.errors import FolderLockedError


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
