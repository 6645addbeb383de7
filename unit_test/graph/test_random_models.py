"""A dozen models of the generator in `proofs/random_models.py`, which looks for more."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

FOUND_ONCE = (32,)


def generator() -> Any:
    path = Path(__file__).parents[2] / "proofs" / "random_models.py"
    spec = importlib.util.spec_from_file_location("random_models", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::nasopt.errors.NoEffectWarning")
def test_random_models_stay_what_they_are() -> None:
    check = generator().check
    problems = {seed: check(seed) for seed in (*range(12), *FOUND_ONCE)}
    assert {seed: problem for seed, problem in problems.items() if problem} == {}
