"""What Arm's compiler Vela says of an int8 `.tflite` file on an Ethos-U: cycles, memory, and what stays on the processor."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nasopt.checked import checked
from nasopt.errors import ConfigError, ExportError
from nasopt.extras import import_extra

ACCELERATOR = re.compile(r"ethos-u(55|65|85)-\d+")


@dataclass(frozen=True)
class VelaCost:
    """Vela's own estimate; no silicon was timed.

    Attributes:
        accelerator: as Vela names it.
        cycles: for one sample.
        ms: these at Vela's clock [ms].
        sram_bytes, flash_bytes: taken on the chip and outside of it [B].
        npu, cpu: operators that run on the accelerator, and on the processor beside it.
    """

    accelerator: str
    cycles: int
    ms: float
    sram_bytes: int
    flash_bytes: int
    npu: int
    cpu: int

    def __str__(self) -> str:
        text = f"{self.accelerator}: {self.cycles:,} cycles, {self.ms:.3f} ms, {self.sram_bytes:,} B SRAM"
        return text + (f"; {self.cpu} operators stay on the processor" if self.cpu else "")


@checked
def vela_cost(path: str | os.PathLike[str], accelerator: str = "ethos-u55-128") -> VelaCost:
    """Compile an int8 `.tflite` file for an Ethos-U and read the summary; nothing is left behind.

    ```python
    to_tflite(found, "found.tflite", train_loader)
    print(vela_cost("found.tflite", "ethos-u55-128"))
    ```

    Args:
        path: of the file.
        accelerator: `"ethos-u55-32"` to `"ethos-u55-256"`, `"ethos-u65-256"`, `"ethos-u65-512"`, `"ethos-u85-128"`, ...

    Raises:
        MissingExtraError: the extra `vela` is not installed.
        ConfigError: there is no such file, or `accelerator` is no name of one.
        ExportError: Vela refuses the file.
    """
    import_extra("ethosu.vela", "vela", "vela_cost")
    if ACCELERATOR.fullmatch(accelerator) is None:
        raise ConfigError(f"accelerator {accelerator!r}: use a name like 'ethos-u55-128'")
    if not Path(path).is_file():
        raise ConfigError(f"{path} is no file: write it with to_tflite first")
    with tempfile.TemporaryDirectory(prefix="nasopt-") as folder:
        options = ["--accelerator-config", accelerator, "--output-dir", folder]
        command = [sys.executable, "-m", "ethosu.vela", os.path.abspath(path), *options]
        run = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        summaries = list(Path(folder).glob("*_summary_*.csv"))
        if run.returncode or not summaries:
            lines = (run.stderr.strip() or run.stdout.strip() or "no summary").splitlines()
            raise ExportError(f"Vela cannot compile {path} for {accelerator}: {lines[-1]}")
        with summaries[0].open(newline="") as file:
            row = next(csv.DictReader(file))
    counts = {kind: re.search(rf"{kind} operators = (\d+)", run.stdout) for kind in ("NPU", "CPU")}
    npu, cpu = (int(found[1]) if found else 0 for found in counts.values())
    kib = 1024
    return VelaCost(
        accelerator,
        int(float(row["cycles_total"])),
        1e3 * float(row["inference_time"]),
        round(kib * float(row["sram_memory_used"])),
        round(kib * (float(row["off_chip_flash_memory_used"]) + float(row["on_chip_flash_memory_used"]))),
        npu,
        cpu,
    )
