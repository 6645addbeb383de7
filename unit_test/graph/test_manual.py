"""The manual of `nasopt.graph` shows what really comes out."""

from __future__ import annotations

import doctest
import re
from typing import Any

import torch
from torch import Tensor, fx, nn

import nasopt.graph
from nasopt.graph.example import make_example
from nasopt.graph.groups import Analysis, analyse, trace_model
from nasopt.graph.slim import slim


def channels(analysis: Analysis, labels: Tensor) -> str:
    """Labels along the dimension of channels."""
    return " ".join(str(root) for root in analysis.labels.find(analysis.labels.line(labels, 1)).tolist())


def code(network: fx.GraphModule) -> str:
    """The body of `forward`, without what fx adds to free memory early."""
    body = [re.sub(r";  .*", "", line).strip() for line in network.code.splitlines()]
    return "\n".join(line for line in body if line and not line.startswith(("def ", "import", "from")))


def test_manual() -> None:
    names: dict[str, Any] = {"torch": torch, "nn": nn, "make_example": make_example, "trace_model": trace_model}
    names |= {"analyse": analyse, "slim": slim, "channels": channels, "code": code}
    parsed = doctest.DocTestParser().get_doctest(nasopt.graph.__doc__ or "", names, "manual", None, 0)
    runner = doctest.DocTestRunner(verbose=False)
    report: list[str] = []
    runner.run(parsed, out=report.append)
    assert runner.tries >= 8
    assert not runner.failures, "".join(report)
