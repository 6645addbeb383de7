"""All laws of `nasopt.testing` on one wrapped model per row of the table and seed; all other pairs are in proofs/."""

from __future__ import annotations

import pytest
from settings import ROWS, cases, check, is_quick, pairs
from toys import TOYS

from nasopt import PIT
from nasopt.errors import ConfigError
from nasopt.testing import LAWS, check_method


@cases(quick=True)
def test_every_law(row: str, problem: str) -> None:
    check(row, problem)


def test_every_row_problem_and_law_is_used() -> None:
    quick = [pair for pair in pairs() if is_quick(*pair)]
    assert {row for row, _ in quick} == set(ROWS)
    assert {problem for row, problem in quick if row == "pit"} == set(TOYS)
    assert len(TOYS) >= 45
    small = {name for of in ROWS.values() for name, problem in of.problems.items() if not problem.is_network}
    assert {problem for _, problem in quick} >= small
    assert {law for row, _ in quick for law in ROWS[row].laws} == set(LAWS)


def test_unknown_names_are_refused() -> None:
    toy = TOYS["residual"]
    with pytest.raises(ConfigError, match=r"unknown law 'isolaton'\. Did you mean 'isolation'\?"):
        check_method(lambda s, i: PIT(s, input_example=i), toy.seed(), toy.batch(), laws=["isolaton"])
    with pytest.raises(ConfigError, match=r"unknown architecture 'ones'.*Known are: normal"):
        check_method(lambda s, i: PIT(s, input_example=i), toy.seed(), toy.batch(), architectures=["ones"])
