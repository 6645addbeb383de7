"""Values that differ between training and evaluation, as a module that a graph can call."""

from __future__ import annotations

from typing import Any

from torch import nn


class ByMode(nn.Module):
    """Returns `train` in train mode and `evaluation` in eval mode.

    Tracing would freeze an argument such as `training=self.training` of a functional layer; a call of this module in
    its place keeps following `.train()` and `.eval()`.
    """

    def __init__(self, train: Any, evaluation: Any) -> None:
        super().__init__()
        self.train_value = train
        self.evaluation_value = evaluation

    def forward(self) -> Any:
        return self.train_value if self.training else self.evaluation_value

    def extra_repr(self) -> str:
        return f"train={self.train_value!r}, evaluation={self.evaluation_value!r}"
