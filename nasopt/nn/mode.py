"""Layers that tracing puts where Python did something else: values and paths of one mode, and functions kept whole."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
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


class PathByMode(nn.Module):
    """A part of `forward` that is another one in train mode: stochastic depth, a custom norm's statistics, added noise.

    Attributes:
        train: inputs -> tuple of results, without parameters of its own; None: the inputs named in `passes`.
        evaluation: the same in eval mode.
        passes: in a mode without a path of its own, result i is input `passes[i]`.
        keeps_channels: whether both paths take any number of channels, and eval mode changes none of them.
    """

    def __init__(
        self, train: nn.Module | None, evaluation: nn.Module | None, passes: Sequence[int], keeps_channels: bool
    ) -> None:
        super().__init__()
        self.train_path = train
        self.evaluation_path = evaluation
        self.passes = tuple(passes)
        self.keeps_channels = keeps_channels

    def forward(self, *inputs: Any) -> Any:
        path = self.train_path if self.training else self.evaluation_path
        results = tuple(inputs[i] for i in self.passes) if path is None else path(*inputs)
        return results[0] if len(results) == 1 else results


class FunctionUnit(nn.Module):
    """A function that cannot be looked into, kept whole: an `autograd.Function` with its backward, a scripted function.

    Attributes:
        function: what is called: a subclass of `torch.autograd.Function`, or a callable.
    """

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call: Callable[..., Any] = getattr(self.function, "apply", self.function)
        return call(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> FunctionUnit:
        twin = copy.copy(self)
        memo[id(self)] = twin
        return twin

    def extra_repr(self) -> str:
        return str(getattr(self.function, "__name__", self.function))


def as_list(items: Any) -> list[Any]:
    """A list of its own, which functions that write into a list can be given."""
    return list(items)
