"""The README shows the support matrix that the table of rules prints, and its first example runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import fx, nn

from nasopt.graph.support import support_matrix

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_support_matrix_is_that_of_the_table() -> None:
    shown = re.search(r"<!-- support matrix -->\n(.*)\n<!-- end of support matrix -->", README, re.DOTALL)
    assert shown is not None
    assert shown[1] == support_matrix(), "run `python -m nasopt.graph.support` and put its table into the README"


def test_first_example_runs() -> None:
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example is not None
    seed = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    loader = [(torch.randn(2, 3, 32, 32), torch.tensor([0, 3]))]
    scope = {"model": seed, "loader": loader, "criterion": nn.CrossEntropyLoss()}
    exec(example[1], scope)
    assert isinstance(scope["model"], fx.GraphModule)
