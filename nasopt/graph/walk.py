"""What the description of a converted file asks of the walk over activations that it is made by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from torch import fx, nn

from nasopt.graph.branches.decided import DecidedGraph
from nasopt.graph.buffers import ActivationMemory, Buffer
from nasopt.graph.cost_terms import CostTerm


class Walk(Protocol):
    """One pass over the graph.

    Attributes:
        flow: the graph under the decisions of the walk.
        found: buffers and steps so far.
        held: node -> name of its buffer, nested as the node's value.
        holders: name of a buffer -> nodes that have it.
        writers: name of a buffer -> the node that makes it.
    """

    flow: DecidedGraph
    found: ActivationMemory
    held: dict[fx.Node, Any]
    holders: dict[str, list[fx.Node]]
    writers: dict[str, fx.Node]

    def value(self, node: fx.Node) -> Any:
        """What a node computes on the example."""

    def module_of(self, node: fx.Node) -> nn.Module | None:
        """The layer that a node calls, None for a function."""

    def term(self, node: fx.Node) -> CostTerm | None:
        """What a node costs, None where it has no price."""

    def new(self, node: fx.Node, value: Any, name: str) -> Any:
        """Buffers for every tensor of a node's value; names of nested ones are numbered."""

    def hold(self, node: fx.Node, held: Any) -> None:
        """Note the buffers of a node."""

    def names(self, held: Any) -> list[str]:
        """Names of buffers, not nested."""

    def add(
        self,
        node: fx.Node,
        reads: Iterable[str],
        writes: tuple[str, ...],
        target: str | None,
        part: str = "",
        operations: tuple[str, ...] = ("",),
        constants: tuple[Any, ...] = (),
        channels: int = 0,
    ) -> None:
        """A step of a node; `part` tells several apart."""

    def buffer(self, name: str, buffer: Buffer) -> None:
        """A buffer that no node holds."""

    def extra(
        self,
        name: str,
        source: str,
        grown: int,
        before: int,
        sources: list[str],
        operations: tuple[str, ...],
        constants: tuple[Any, ...],
    ) -> list[str]:
        """A step before a node, whose result has `grown` elements for every `before` of its input; what the node reads then."""
