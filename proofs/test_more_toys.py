"""Compilers and exporters of torch take further toys."""

from __future__ import annotations

import pytest

from unit_test.export.test_plain_exporters import check_formats
from unit_test.methods.test_training_tools import check_compiled

MORE = ["squeeze_excite", "channel_shuffle", "functions_only", "residual", "causal"]


@pytest.mark.parametrize("name", MORE)
@pytest.mark.filterwarnings("ignore")
def test_exported_to_other_formats(name: str) -> None:
    check_formats(name)


@pytest.mark.parametrize("name", MORE)
@pytest.mark.filterwarnings("ignore")
def test_compile_without_graph_breaks(name: str) -> None:
    check_compiled(name)
