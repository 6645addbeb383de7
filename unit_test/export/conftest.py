"""torch's converter builds its table of operations anew for every export, which takes longer than a small export."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from importlib.util import find_spec

import pytest


@pytest.fixture(scope="session", autouse=True)
def _one_table_of_operations() -> Iterator[None]:
    if find_spec("onnx_ir") is None:  # an environment of another format
        yield
        return
    from torch.onnx._internal.exporter._registration import ONNXRegistry  # takes seconds: not while tests are collected

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="session")
def c_compiler() -> str:
    """Path of a C compiler; without one, tests are skipped."""
    found = next((path for path in map(shutil.which, ("cc", "gcc", "clang")) if path), None)
    if found is None:
        pytest.skip("needs a C compiler")
    return found
