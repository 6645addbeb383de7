"""How does a file from the internet become a file that can be trusted? Download, resume, checksum, rename."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks_mlperf_tiny.errors import DataError
from benchmarks_mlperf_tiny.lock import locked

BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class RemoteFile:
    """A file and what it must contain.

    Attributes:
        url: where it is.
        name: in the cache folder.
        sha256: of its contents, hexadecimal.
    """

    url: str
    name: str
    sha256: str


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
            if checksum(path) == remote.sha256:
                return path
            raise DataError(
                f"{path} does not have the checksum {remote.sha256}: it is damaged. Delete it, and try again"
            )
        part = folder / f"{remote.name}.part"
        try:
            download(remote.url, part, quiet)
        except (OSError, http.client.HTTPException) as error:
            raise DataError(
                f"{remote.url} could not be downloaded ({error}); what has arrived is kept and continued next time. "
                f"Without a network: put the file at {path}, name a local copy with --data-dir, or use embedded data"
            ) from error
        found = checksum(part)
        if found != remote.sha256:
            part.unlink()
            raise DataError(
                f"{remote.url} has the checksum {found}, expected was {remote.sha256}: the download was discarded. "
                f"Try again; if it happens twice, the file there has changed: name a trusted copy with --data-dir"
            )
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
