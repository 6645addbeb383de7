"""Markers of alternatives: the base class of layers with branches, and the brackets around their branches in a graph.

In a traced graph every branch is inlined between two markers, so that all of them share one analysis:

```
entry = BranchInput("conv", 0)(x)      # opens branch 0
y0    = conv.branches.0(entry)
entry = BranchInput("conv", 1)(x)      # closes branch 0, opens branch 1
y1    = conv.branches.1(entry)
y     = Choice()(y0, y1)               # closes: one of them, or a mixture
```
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from nasopt.errors import ConfigError


class Alternatives(nn.Module, ABC):
    """A layer that is one of several branches, all of which map the same inputs to one output of the same shape.

    Attributes:
        branches: the branches.
    """

    branches: nn.ModuleList

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Plain values that a search method wants to know of this layer; they survive tracing."""


class BranchInput(nn.Module):
    """Opens a branch: passes its inputs on; several come back as a tuple.

    Attributes:
        choice: path of the layer in the model.
        index: of the branch.
    """

    def __init__(self, choice: str, index: int) -> None:
        super().__init__()
        self.choice = choice
        self.index = index

    def forward(self, *inputs: Any) -> Any:
        return inputs[0] if len(inputs) == 1 else inputs

    def extra_repr(self) -> str:
        return f"{self.choice!r}, {self.index}"


class Choice(nn.Module):
    """Closes the branches: takes all their outputs. What it makes of them is up to a search method; alone, the first one.

    Attributes:
        kinds: a word for every branch: its class, or the classes of its layers.
        settings: of the `Alternatives` in its place.
    """

    def __init__(self, kinds: tuple[str, ...], settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.kinds = kinds
        self.settings = dict(settings)

    def forward(self, *outputs: Tensor) -> Tensor:
        return outputs[0]

    def extra_repr(self) -> str:
        return f"one of {len(self.kinds)} branches"


def choices_of(module: fx.GraphModule) -> dict[str, Choice]:
    """All choices of a traced model by path, in the order of the graph: inner ones before those around them."""
    modules = {name: m for name, m in module.named_modules() if isinstance(m, Choice)}
    called = (str(node.target) for node in module.graph.nodes if node.op == "call_module")
    return {path: modules[path] for path in called if path in modules}


def check_branches(
    path: str, layer: Alternatives, inputs: Sequence[Any], evaluate: Callable[[nn.Module], Tensor]
) -> None:
    """Run every branch on fake inputs and compare what comes out.

    Args:
        path: of the layer in the model.
        layer: the layer.
        inputs: fake arguments, for the message.
        evaluate: `branch -> output` for these inputs.

    Raises:
        ConfigError: a branch fails, returns no tensor, or another shape or dtype than the first one; names layer,
            branch and shapes.
    """
    given = ", ".join(f"{tuple(x.shape)}" if isinstance(x, Tensor) else repr(x) for x in inputs)
    first: Tensor | None = None
    for index, branch in enumerate(layer.branches):
        who = f"{type(layer).__name__} {path!r}, branch {index} ({type(branch).__name__})"
        try:
            output = evaluate(branch)
        except Exception as error:
            raise ConfigError(
                f"{who} fails on its input of shape {given}: {type(error).__name__}: {error}. Every branch must take the "
                "input of the layer that it replaces"
            ) from error
        if not isinstance(output, Tensor):
            raise ConfigError(f"{who} returns a {type(output).__name__}: a branch must return one tensor")
        if first is None:
            first = output
        if output.shape != first.shape or output.dtype != first.dtype:
            raise ConfigError(
                f"{who} maps {given} to {tuple(output.shape)} ({output.dtype}), branch 0 "
                f"({type(layer.branches[0]).__name__}) to {tuple(first.shape)} ({first.dtype}): outputs are mixed, so all "
                "branches need one output shape. Check channels, stride and padding of this branch"
            )


def is_marker(module: fx.GraphModule, node: fx.Node, kind: type[nn.Module]) -> bool:
    """Whether a node calls a `BranchInput` or a `Choice`."""
    return node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), kind)


def example_input(value: Any) -> Any:
    """A real tensor like a fake one; anything else as it is."""
    return torch.zeros(value.shape, dtype=value.dtype, device=value.device) if isinstance(value, Tensor) else value
