"""All laws on every pair of the table that unit_test/test_laws.py leaves out, and the rest of the laws on large networks."""

from __future__ import annotations

import pytest
from settings import cases, check, is_quick, is_reduced, pairs


@cases(quick=False)
def test_every_law_everywhere(row: str, problem: str) -> None:
    check(row, problem, quick=False)


REDUCED = [pair for pair in pairs() if is_quick(*pair) and is_reduced(*pair)]


@pytest.mark.parametrize(("row", "problem"), REDUCED)
def test_every_law_of_what_the_tests_reduce(row: str, problem: str) -> None:
    check(row, problem, quick=False)
