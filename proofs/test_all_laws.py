"""All laws on every pair of the table that unit_test/test_laws.py leaves out, and the rest of the laws on large networks."""

from __future__ import annotations

import pytest
from settings import CELL_SEEDS, LARGE, ROWS, cases, check, is_quick, pairs


@cases(quick=False)
def test_every_law_everywhere(row: str, problem: str) -> None:
    check(row, problem, quick=False)


REDUCED = [
    (row, problem)
    for row, problem in pairs()
    if is_quick(row, problem) and (problem in LARGE or ROWS[row].problems is CELL_SEEDS)
]


@pytest.mark.parametrize(("row", "problem"), REDUCED)
def test_every_law_for_every_architecture(row: str, problem: str) -> None:
    check(row, problem, quick=False)
