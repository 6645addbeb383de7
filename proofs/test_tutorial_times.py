"""The tutorials as they stand, against the clock."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["own_model", "own_target"])
def test_a_tutorial_takes_less_than_two_minutes(name: str) -> None:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-W", "error", "-m", f"examples.{name}"], cwd=ROOT, check=True)
    assert time.perf_counter() - start < 120
