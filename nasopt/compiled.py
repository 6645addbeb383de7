"""Compiled functions: numba's `njit` with its cache in the user's cache folder. Importing this imports numba, an extra."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from nasopt.extras import import_extra

numba = import_extra("numba", "latency", "cycles of a target, and packed binary and adder layers,")
"""The package, and `numba.extending` with it."""
import_extra("numba.extending", "latency", "packed binary layers")


def cache_folder() -> Path:
    """Where machine code is kept: `NUMBA_CACHE_DIR`, or `nasopt` in the place that this user's system has for caches."""
    if own := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(own)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "nasopt" / "numba"


def njit(*arguments: Any, **options: Any) -> Any:
    """`numba.njit` that keeps machine code in `cache_folder()`, beside no source file; without a cache where none can be written.

    numba's own settings are as before afterwards: functions of others are cached where they were.
    """
    if len(arguments) == 1 and callable(arguments[0]) and not options:
        return njit()(arguments[0])

    def compile_function(function: Any) -> Any:
        before = numba.config.CACHE_DIR
        try:
            numba.config.CACHE_DIR = str(cache_folder())
            return numba.njit(*arguments, cache=True, **options)(function)
        except (OSError, RuntimeError):  # numba finds no place that it can write to
            return numba.njit(*arguments, **options)(function)
        finally:
            numba.config.CACHE_DIR = before

    return compile_function
