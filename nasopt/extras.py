"""Optional packages: imported when they are needed; the error names the command that installs one."""

from __future__ import annotations

import importlib
from typing import Any

from nasopt.errors import MissingExtraError


def import_extra(module: str, extra: str, user: str) -> Any:
    """Import a module that only an extra of nasopt brings.

    Args:
        module: dotted name, e.g. `"onnxruntime"`.
        extra: of `pip install nasopt[extra]`.
        user: what needs it, for the message.

    Raises:
        MissingExtraError: it is not installed. A package that is there and fails to import raises its own error.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise MissingExtraError(
            f'{user} needs the package {error.name!r}, which is not installed: pip install "nasopt[{extra}]"'
        ) from error
