"""Laws of `nasopt.testing` on one wrapped model per row of the table and seed; proofs/ checks all laws of all pairs."""

from __future__ import annotations

import pytest
from settings import BRANCHES, MASKS, ROWS, check, is_quick, pairs, quick_part
from toys import TOYS

from nasopt import PIT
from nasopt.errors import ConfigError
from nasopt.testing import ARCHITECTURES, LAWS, check_method

QUICK = [pair for pair in pairs() if is_quick(*pair)]


@pytest.mark.parametrize(("row", "problem"), QUICK)
def test_every_law(row: str, problem: str) -> None:
    check(row, problem)


def test_every_row_problem_and_law_is_used() -> None:
    assert {row for row, _ in QUICK} == set(ROWS)
    assert {problem for row, problem in QUICK if row == "pit"} == set(TOYS)
    assert len(TOYS) >= 45
    small = {name for of in ROWS.values() for name, problem in of.problems.items() if not problem.is_network}
    assert {problem for _, problem in QUICK} >= small
    # Every law meets several problems of masks and of branches; so does every value of the architecture.
    for problems in (MASKS, BRANCHES):
        pairs_of = [pair for pair in QUICK if ROWS[pair[0]].problems is problems]
        laws = [law for pair in pairs_of for law in quick_part(*pair)[0]]
        kinds = [kind for pair in pairs_of for kind in quick_part(*pair)[1]]
        assert min(laws.count(law) for law in LAWS) >= 3
        assert min(kinds.count(kind) for kind in ARCHITECTURES) >= 2


def test_unknown_names_are_refused() -> None:
    toy = TOYS["residual"]
    with pytest.raises(ConfigError, match=r"unknown law 'isolaton'\. Did you mean 'isolation'\?"):
        check_method(lambda s, i: PIT(s, input_example=i), toy.seed(), toy.batch(), laws=["isolaton"])
    with pytest.raises(ConfigError, match=r"unknown architecture 'ones'.*Known are: normal"):
        check_method(lambda s, i: PIT(s, input_example=i), toy.seed(), toy.batch(), architectures=["ones"])
