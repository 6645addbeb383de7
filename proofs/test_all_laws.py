"""All laws, with all values of the architecture, on every pair of setting and seed."""

from __future__ import annotations

import pytest
from settings import check, pairs


@pytest.mark.parametrize(("row", "problem"), list(pairs()))
def test_every_law_everywhere(row: str, problem: str) -> None:
    check(row, problem, quick=False)
