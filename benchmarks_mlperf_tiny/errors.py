"""What can go wrong in the benchmarks, as types."""

from __future__ import annotations

from nasopt.errors import NasoptError


class BenchmarkError(NasoptError, ValueError):
    """A request that cannot be served: the message says where, what arrived, what follows and what to do."""


class DataError(BenchmarkError):
    """Data is missing, incomplete or not what its checksum promises."""


class CheckpointError(BenchmarkError):
    """A checkpoint cannot be written, read, or used for this run."""


class FolderLockedError(BenchmarkError):
    """Another process works in this results folder."""


class DamagedFileError(BenchmarkError):
    """A file of a results folder is not what was written there."""


class DamagedFileWarning(UserWarning):
    """A damaged file was passed over, because there is another way."""
