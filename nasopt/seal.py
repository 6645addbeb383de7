"""Seals of plain values: a SHA-256 of the content inside the content, so that a damaged file is told from a good one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "sha256"
"""Under it the seal is kept."""


def seal_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of everything but the seal, hexadecimal: of the values, not of how a file spells them."""
    plain = {key: value for key, value in content.items() if key != KEY}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its seal at the end.

    Raises:
        TypeError: a value is nothing that JSON has.
    """
    return {**{key: value for key, value in content.items() if key != KEY}, KEY: seal_of(content)}


def is_broken(content: Mapping[str, Any]) -> bool:
    """Whether the content is another one than was sealed; without a seal it is."""
    try:
        return content.get(KEY) != seal_of(content)
    except (TypeError, ValueError, RecursionError):
        return True
