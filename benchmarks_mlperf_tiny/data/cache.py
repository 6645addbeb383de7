"""Cache of downloaded files: download, resume, checksum, rename."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks_mlperf_tiny.errors import DataError
from benchmarks_mlperf_tiny.files import write_text
from benchmarks_mlperf_tiny.lock import locked

BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class RemoteFile:
    """A file and what it must contain.

    Attributes:
        url: where it is.
        name: in the cache folder.
        sha256: of its contents, hexadecimal. None where its publisher gives none: then `NAME.sha256` beside the file
            decides, as `sha256sum` writes it, and the first download writes that where the user has not.
    """

    url: str
    name: str
    sha256: str | None


def cache_folder() -> Path:
    """NASOPT_CACHE, or `nasopt` in the user's cache folder."""
    own = os.environ.get("NASOPT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nasopt"


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def recorded(path: Path) -> str | None:
    """The checksum that `NAME.sha256` beside a file holds, or None.

    Raises:
        DataError: it holds no checksum.
    """
    record = path.with_name(f"{path.name}.sha256")
    if not record.exists():
        return None
    words = record.read_text(errors="replace").split()
    if not words or not re.fullmatch("[0-9a-fA-F]{64}", words[0]):
        raise DataError(f"{record} holds no SHA-256 checksum: write it as sha256sum does, or delete the file")
    return words[0].lower()


def check_local(path: Path, remote: RemoteFile) -> None:
    """Compare a file with its published or recorded checksum; without either, record the present one.

    Raises:
        DataError: they differ.
    """
    expected = remote.sha256 or recorded(path)
    found = checksum(path)
    if expected is None:
        record(path, found)
    elif found != expected:
        raise DataError(
            f"{path} does not have the checksum {expected}: it is damaged, or another version. Delete it, and try again"
        )


def record(path: Path, found: str) -> None:
    """Write `NAME.sha256` beside a file whose publisher gives no checksum, and say so."""
    with contextlib.suppress(OSError):  # a folder that cannot be written to: checked by the archive's own sums only
        write_text(path.with_name(f"{path.name}.sha256"), f"{found}  {path.name}\n")
    print(
        f"{path.name}: no checksum is published; that of this first copy, {found}, is taken for right from now on",
        file=sys.stderr,
    )


def fetch(remote: RemoteFile, folder: Path | None = None, quiet: bool = False) -> Path:
    """The file in the cache, downloaded if need be.

    Bytes go to `NAME.part`, which a later call continues; only a file with the right checksum gets its name. A file in
    the cache is checked again whenever it is asked for.

    Args:
        remote: what to get.
        folder: of the cache; default: `cache_folder()`.
        quiet: show no progress.

    Raises:
        DataError: no network, or the contents are not what the checksum promises; the file is named, and nothing is
            kept that could be taken for it.
    """
    folder = cache_folder() if folder is None else folder
    path = folder / remote.name
    with locked(folder, wait=True):
        if path.is_file():
            check_local(path, remote)
            return path
        part = folder / f"{remote.name}.part"
        try:
            download(remote.url, part, quiet)
        except (OSError, http.client.HTTPException) as error:
            raise DataError(
                f"{remote.url} could not be downloaded ({error}); what has arrived is kept and continued next time. "
                f"Without a network: put the file at {path}, name a local copy with --data-dir, or use embedded data"
            ) from error
        expected, found = remote.sha256 or recorded(path), checksum(part)
        origin = "published" if remote.sha256 else f"in {path.name}.sha256"
        if expected is not None and found != expected:
            part.unlink()
            raise DataError(
                f"{remote.url} has the checksum {found}, expected was {expected} ({origin}): the download was discarded. "
                f"Try again; if it happens twice, the file there has changed: name a trusted copy with --data-dir"
            )
        if expected is None:
            record(path, found)
        part.replace(path)
    return path


def download(url: str, part: Path, quiet: bool) -> None:
    """Append to `part` what it lacks of a URL's contents; start over where the server cannot continue."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        reply = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing is left to send: the checksum will tell
            return
        raise
    with reply:
        resumed = have and reply.status == 206
        length = reply.headers.get("Content-Length")
        total = int(length) + (have if resumed else 0) if length else None
        bar = tqdm(
            total=total, initial=have if resumed else 0, unit="B", unit_scale=True, desc=part.stem, disable=quiet
        )
        with bar, open(part, "ab" if resumed else "wb") as file:
            while block := reply.read(BLOCK):
                file.write(block)
                bar.update(len(block))
    if total is not None and part.stat().st_size < total:
        raise OSError(f"connection ended after {part.stat().st_size} of {total} bytes")
