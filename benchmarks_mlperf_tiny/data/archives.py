"""Public archives: found in --data-dir or the cache, read once from front to end, named if damaged."""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
import wave
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks_mlperf_tiny.data.cache import BLOCK, RemoteFile, check_local, fetch
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.errors import DataError

DAMAGE = (OSError, EOFError, KeyError, ValueError, zlib.error, tarfile.TarError, zipfile.BadZipFile, wave.Error)


def find_archive(remote: RemoteFile, options: DataOptions) -> Path:
    """The archive in `--data-dir`, or in the cache, downloaded if need be.

    Raises:
        DataError: `--data-dir` does not hold it, it has another checksum than the published one, or there is no network.
    """
    if options.data_dir is None:
        return fetch(remote)
    path = options.data_dir / remote.name
    if not path.is_file():
        raise DataError(
            f"{options.data_dir} holds no {remote.name}: put a copy of {remote.url} there, or leave --data-dir out to "
            f"download it"
        )
    check_local(path, remote)
    return path


@contextlib.contextmanager
def naming(path: Path, what: str) -> Iterator[None]:
    """Turns everything that a damaged or foreign archive raises into a `DataError` that names the file."""
    try:
        yield
    except DataError:
        raise
    except DAMAGE as error:
        beside = path.with_name(f"{path.name}.sha256")  # a checksum of the damaged file would refuse the next one
        doomed = f"it and {beside.name}" if beside.exists() else "it"
        raise DataError(f"{path} is no usable {what} archive ({error!r}): delete {doomed}, and get it again") from error


def tar_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """`(name, contents)` of every file in a `.tar.gz`, in the archive's order; gzip's own checksum is verified."""
    with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                yield member.name.removeprefix("./"), file.read()
        while stream.read(BLOCK):  # to the end, where the checksum is
            pass


def decode_wav(content: bytes, rate: int) -> np.ndarray:
    """Samples of a mono recording of 16 bits: `(samples,)` int16.

    Raises:
        ValueError: it is something else.
    """
    with wave.open(io.BytesIO(content)) as file:
        form = (file.getnchannels(), file.getsampwidth(), file.getframerate())
        if form != (1, 2, rate):
            raise ValueError(f"channels, bytes per sample and rate are {form}, expected were (1, 2, {rate})")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16)
