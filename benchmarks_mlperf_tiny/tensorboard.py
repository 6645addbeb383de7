"""How do curves get into TensorBoard? Only on request: the package is not a dependency."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from benchmarks_mlperf_tiny.errors import BenchmarkError


class CurveWriter:
    """Writes the records of epochs as scalars.

    Args:
        folder: of the event file.

    Raises:
        BenchmarkError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            module = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise BenchmarkError(
                f"--tensorboard needs a package that is not installed ({error}): pip install tensorboard"
            ) from error
        self.writer: Any = module.SummaryWriter(str(folder))

    def write(self, record: dict[str, Any], step: int) -> None:
        """One epoch; `step` counts epochs through all phases."""
        for key in ("loss", "val", "cost"):
            if key in record:
                self.writer.add_scalar(f"{record['phase']}/{key}", record[key], step)
        self.writer.flush()
