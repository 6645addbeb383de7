"""What if a package that only some commands need is not installed? Then its pip command is named."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks_mlperf_tiny.errors import BenchmarkError


def require(package: str, purpose: str) -> Any:
    """The package, imported; its extra has the same name.

    Args:
        package: to import.
        purpose: what needs it, for the message.

    Raises:
        BenchmarkError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise BenchmarkError(
            f"{purpose} needs the package {package!r}, which cannot be imported ({error}): "
            f"pip install 'nasopt[{package}]', or pip install -c constraints.txt '.[{package}]' in the repository"
        ) from error
