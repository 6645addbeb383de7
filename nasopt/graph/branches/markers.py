"""Markers: the base class of layers that are one of several branches, and the brackets around branches in a graph.

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

SITE = "width"
"""Name of the `WidthSite` in a layer."""


class Alternatives(nn.Module, ABC):
    """A layer that is one of several branches, or the sum of several of them; all have outputs of one shape.

    Attributes:
        branches: the branches.
        keep: how many of them remain.
        groups: sizes of the groups of branches, in their order: branches of a group are weighed against each other.
        takes: position of the argument that every branch takes; None: every branch takes all arguments.
        names: of the branches, for tables and for the layers of an exported network; empty: they are numbered.
    """

    branches: nn.ModuleList
    keep: int
    groups: tuple[int, ...]
    takes: tuple[int, ...] | None
    names: tuple[str, ...]

    def arguments_of(self, branch: int, arguments: Sequence[Any]) -> list[Any]:
        """Those of all arguments that a branch takes."""
        return list(arguments) if self.takes is None else [arguments[self.takes[branch]]]

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Plain values that a search method wants to know of this layer; they survive tracing."""


class BranchInput(nn.Module):
    """Opens a branch: passes its inputs on; several come back as a tuple.

    Attributes:
        choice: path of the layer in the model.
        index: of the branch.
        group: index of its group, None where all branches are one.
    """

    def __init__(self, choice: str, index: int, group: int | None = None) -> None:
        super().__init__()
        self.choice = choice
        self.index = index
        self.group = group

    @property
    def key(self) -> str:
        """Of the branch's group in a `Region`."""
        return group_key(self.choice, self.group)

    def forward(self, *inputs: Any) -> Any:
        return inputs[0] if len(inputs) == 1 else inputs

    def extra_repr(self) -> str:
        return f"{self.choice!r}, {self.index}"


class Choice(nn.Module):
    """Closes the branches: takes all their outputs. What it makes of them is up to a search method; alone, the first one.

    Attributes:
        kinds: a word for every branch: its name, its class, or the classes of its layers.
        settings: of the `Alternatives` in its place.
        keep, groups, names: as in `Alternatives`.
        zeros: branches that are `nasopt.nn.Zero`: they cost nothing, and are never kept.
        gone: branches that a search has dropped: they run no more, and are never kept.
    """

    gone: frozenset[int] = frozenset()

    def __init__(
        self,
        kinds: tuple[str, ...],
        settings: Mapping[str, Any],
        keep: int = 1,
        groups: tuple[int, ...] = (),
        names: tuple[str, ...] = (),
        zeros: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__()
        self.kinds = kinds
        self.settings = dict(settings)
        self.keep = keep
        self.groups = groups or (len(kinds),)
        self.names = names
        self.zeros = zeros

    @property
    def is_one(self) -> bool:
        """Whether one branch of all is chosen: not several, and not one in each of several groups."""
        return self.keep == 1 and len(self.groups) == 1

    @property
    def group_of(self) -> list[int | None]:
        """Group of every branch, None where all are one."""
        if len(self.groups) == 1:
            return [None] * len(self.kinds)
        return [group for group, size in enumerate(self.groups) for _ in range(size)]

    @property
    def options(self) -> list[int]:
        """Branches that may still be kept."""
        return [i for i in range(len(self.kinds)) if i not in self.zeros and i not in self.gone]

    @property
    def first(self) -> tuple[int, ...]:
        """The first branches that may be kept in the seed."""
        return tuple(i for i in range(len(self.kinds)) if i not in self.zeros)[: self.keep]

    def short_name(self, path: str, branch: int) -> str:
        """What `path.branches.branch` is called in a network in which it is kept."""
        return f"{path}.{self.names[branch]}" if self.names else path if self.keep == 1 else f"{path}.{branch}"

    def forward(self, *outputs: Tensor) -> Tensor:
        return outputs[0]

    def extra_repr(self) -> str:
        return f"{'one' if self.keep == 1 else self.keep} of {len(self.kinds)} branches"


class WidthSite(Choice):
    """A choice between widths of one layer's weight, or of one tensor class. It belongs to the layer: it has no branches.

    Attributes:
        widths: bits, ascending.
        channels: each of so many output channels has a width of its own: branch `c * len(widths) + i` is width i of channel c.
            None: the whole layer has one.
    """

    def __init__(self, widths: tuple[int, ...], settings: Mapping[str, Any], channels: int | None = None) -> None:
        count = channels or 1
        kinds = tuple(f"{bits} bit" for bits in widths) * count
        super().__init__(kinds, settings, keep=count, groups=(len(widths),) * count)
        self.widths = widths
        self.channels = channels

    @property
    def is_one(self) -> bool:
        return True

    @property
    def first(self) -> tuple[int, ...]:
        """What relative costs are relative to: 8 bits, or the width next to it."""
        nearest = min(range(len(self.widths)), key=lambda i: (abs(self.widths[i] - 8), -self.widths[i]))
        return self.branches_of([nearest] * (self.channels or 1))

    def branches_of(self, positions: Sequence[int]) -> tuple[int, ...]:
        """Branches of one width per channel, by position."""
        return tuple(channel * len(self.widths) + position for channel, position in enumerate(positions))

    def positions_of(self, branches: Sequence[int]) -> list[int]:
        """Positions of the widths of all channels."""
        return [branch % len(self.widths) for branch in branches]

    def best(self, scores: Sequence[float]) -> tuple[int, ...]:
        """The width of the highest score of every channel; of equal ones the narrowest."""
        count = len(self.widths)
        rows = [scores[first : first + count] for first in range(0, len(scores), count)]
        return self.branches_of([max(range(count), key=row.__getitem__) for row in rows])


def group_key(choice: str, group: int | None) -> str:
    """What a group of branches is called in a `Region`: by the path of its choice where all branches are one group."""
    return choice if group is None else f"{choice}#{group}"


def choice_of(key: str) -> str:
    """Path of the choice that a group belongs to."""
    return key.partition("#")[0]


def choices_of(module: fx.GraphModule) -> dict[str, Choice]:
    """All choices of a traced model by path, in the order of the graph: inner ones before those around them; last, widths."""
    modules = {name: m for name, m in module.named_modules() if isinstance(m, Choice)}
    called = dict.fromkeys(str(node.target) for node in module.graph.nodes if node.op == "call_module")
    sites = (f"{path}.{SITE}" for path in called)
    return {path: modules[path] for path in (*called, *sites) if path in modules}


def site_of(layer: nn.Module) -> WidthSite | None:
    """The widths between which a layer's own is chosen, None where it has one width or none."""
    found = layer._modules.get(SITE)
    return found if isinstance(found, WidthSite) else None


def check_branches(
    path: str, layer: Alternatives, inputs: Sequence[Any], evaluate: Callable[[nn.Module, Sequence[Any]], Tensor]
) -> None:
    """Run every branch on fake inputs and compare what comes out.

    Args:
        path: of the layer in the model.
        layer: the layer.
        inputs: fake arguments.
        evaluate: `(branch, its arguments) -> output`.

    Raises:
        ConfigError: a branch fails, returns no tensor, or another shape or dtype than the first one; names layer,
            branch and shapes.
    """
    if layer.takes is not None and max(layer.takes) >= len(inputs):
        raise ConfigError(
            f"{type(layer).__name__} {path!r} is called with {len(inputs)} argument(s), and a branch takes that at position "
            f"{max(layer.takes)}"
        )
    first: Tensor | None = None
    for index, branch in enumerate(layer.branches):
        who = f"{type(layer).__name__} {path!r}, branch {index} ({type(branch).__name__})"
        taken = layer.arguments_of(index, inputs)
        given = ", ".join(f"{tuple(x.shape)}" if isinstance(x, Tensor) else repr(x) for x in taken)
        try:
            output = evaluate(branch, taken)
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
