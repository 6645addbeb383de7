"""How do curves get into TensorBoard? Only on request: the package is not a dependency."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from nasopt.extras import import_extra


class CurveWriter:
    """Writes the records of epochs as scalars.

    Args:
        folder: of the event file.

    Raises:
        MissingExtraError: TensorBoard is not installed; the message names the command.
    """

    def __init__(self, folder: Path) -> None:
        import_extra("tensorboard", "tensorboard", "--tensorboard")
        self.writer: Any = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder))

    def write(self, record: dict[str, Any], step: int) -> None:
        """One epoch; `step` counts epochs through all phases."""
        for key in ("loss", "val", "cost", "budget"):
            if key in record:
                self.writer.add_scalar(f"{record['phase']}/{key}", record[key], step)
        self.writer.flush()
