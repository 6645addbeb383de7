"""What a run shows where there is no terminal."""

from __future__ import annotations

import pytest

from benchmarks_mlperf_tiny.training import Progress


@pytest.mark.parametrize(("epochs", "shown"), [(1, [1]), (3, [1, 2, 3]), (13, [4, 7, 10, 13]), (40, [10, 20, 30, 40])])
def test_few_lines_for_a_phase(epochs: int, shown: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("ic pit search", epochs, 2, figure="AUC")
    for _ in range(epochs):
        progress.step(0.5)
        progress.end_epoch({"loss": 0.5, "val": 0.9, "cost": 0.25, "budget": 0.5})
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"ic pit search {n}/{epochs}: loss 0.500, val AUC 0.900, cost 25.0 %, budget 50.0 %" for n in shown
    ]
