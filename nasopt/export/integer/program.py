"""Integer programs: what a quantised network computes, run by NumPy, kept in files, written for compilers."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from nasopt.export.file import writable, write_checked
from nasopt.export.integer.c_header import header_text
from nasopt.export.integer.files import load_fields, save_program
from nasopt.export.integer.running import Program


@dataclass(frozen=True)
class IntegerProgram(Program):
    """What a quantised network computes, in integers; `nasopt.export.integer_program` makes it.

    ```python
    program(x)            # real outputs, float64, as the network returns them
    program(x, raw=True)  # the integers behind them
    program.values(x)     # integers at every point, by name
    ```

    Its attributes are those of `Program`.
    """

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as one `.npz` of plain arrays, described by JSON; nothing in it is run when it is loaded.

        Raises:
            ConfigError: the path cannot be written.
        """
        return save_program(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> IntegerProgram:
        """What `save` wrote.

        Raises:
            ConfigError: there is no such file, or it is none of ours, or damaged.
        """
        return IntegerProgram(**load_fields(path))

    def c_header(self, path: str | os.PathLike[str]) -> Path:
        """Write the constants alone as a C header, for kernels of one's own: weights packed low bits first, biases,
        multipliers, shifts, and the integers of one sample with what they become. `nasopt.export.to_c` writes a whole program.

        Raises:
            ConfigError: the path cannot be written.
            ExportError: a weight of 1 bit is 0.
        """
        place = writable(path)
        symbol = "net_" + re.sub(r"\W", "_", place.stem, flags=re.ASCII)
        write_checked(place, header_text(self, symbol).encode(), lambda draft: None)
        return place
