"""One thread and one random seed, as in unit_test."""

from __future__ import annotations

from unit_test.conftest import _seeded, pytest_configure

__all__ = ["_seeded", "pytest_configure"]
