"""Sources of data: a folder that the user names, NASOPT_DATA, or the embedded default."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from benchmarks_mlperf_tiny.errors import DataError


@dataclass(frozen=True)
class DataOptions:
    """What the user said about data.

    Attributes:
        data_dir: a local copy of the data set (`--data-dir`), or None.
        seed: of generated data.
    """

    data_dir: Path | None = None
    seed: int = 0


def stand_in_folder() -> Path | None:
    """The folder that NASOPT_DATA names, or None."""
    value = os.environ.get("NASOPT_DATA")
    return Path(value) if value else None


def has_stand_in(file_name: str) -> bool:
    """Whether NASOPT_DATA holds the file."""
    folder = stand_in_folder()
    return folder is not None and (folder / file_name).is_file()


def stand_in(file_name: str, data: str, options: DataOptions) -> Path:
    """Path of a stand-in file in `--data-dir` or NASOPT_DATA.

    Raises:
        DataError: neither holds the file.
    """
    folders = [folder for folder in (options.data_dir, stand_in_folder()) if folder is not None]
    for folder in folders:
        if (folder / file_name).is_file():
            return folder / file_name
    looked = ", ".join(str(folder) for folder in folders) or "nowhere: neither --data-dir nor NASOPT_DATA is set"
    raise DataError(
        f"data {data!r}: file {file_name} was not found (looked in: {looked}). "
        f"Set NASOPT_DATA to the folder that holds it, or leave --data out to use the embedded data"
    )
