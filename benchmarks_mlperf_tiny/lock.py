"""The lock on a folder, which ends with its owner, however that ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from benchmarks_mlperf_tiny.errors import FolderLockedError


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Own `folder`, which is created if need be, for the duration of the block.

    Args:
        folder: to own.
        wait: until another owner is gone, instead of raising.

    Raises:
        FolderLockedError: another process owns it, or the folder cannot be made.
    """
    owner = folder / ".owner"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=-1 if wait else 0)
        lock.acquire()
    except Timeout as error:
        who = owner.read_text().strip() if owner.exists() else "unknown"
        raise FolderLockedError(
            f"folder {folder} is in use by process {who}: wait for it to end, or choose another --out"
        ) from error
    except OSError as error:
        raise FolderLockedError(f"folder {folder} cannot be used ({error}): choose another --out") from error
    try:
        owner.write_text(str(os.getpid()))
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink()
        lock.release()
