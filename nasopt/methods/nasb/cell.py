"""A NASB cell: a binary backbone and a searchable graph over its nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import torch
from torch import Tensor, nn

from nasopt.errors import ConfigError
from nasopt.graph.call import Call
from nasopt.graph.chain import NodeShape
from nasopt.graph.registry import layer_rule
from nasopt.methods.nasb.backbone import Backbone, Step, check_alignment, copies
from nasopt.methods.nasb.candidates import CANDIDATES, ZERO, check_candidates, make_operation, takes_source
from nasopt.nn import Align2d


@dataclass(frozen=True)
class Edge:
    """A place for an operation: from node `source` to the later node `target` of one branch."""

    branch: int
    source: int
    target: int


@dataclass(frozen=True)
class Choice:
    """An operation that runs on an edge, times `gate` where one is given (a scalar tensor).

    `is_off` says that this gate is 0: the output is there for the gradient of the gate alone, so nothing flows back
    through the operation, and its graph is not built.
    """

    edge: Edge
    operation: str
    gate: Tensor | None = None
    is_off: bool = False


class CellBody(nn.Module):
    """What a cell under search and a found cell share: nodes, backbone, alignment, and how they run.

    Value of node j > 0 = what the backbone makes of node j - 1, plus the outputs of all operations on edges into j.
    With several branches, nodes at which a block of the seed ends hold the sum over the branches, for all of them.

    Across a change of shape, a parameter-free operation takes an aligned source: aligned by the seed's own
    down-sampling layers where the seed has them from that node on, else by `Align2d`. A convolution strides.
    """

    def __init__(self, backbone: Backbone, branches: int) -> None:
        super().__init__()
        self.shapes = list(backbone.shapes)
        self.joints = frozenset(backbone.joints | {len(self.shapes) - 1})
        self.steps = nn.ModuleList(nn.ModuleList(steps) for steps in copies(backbone, branches))
        self.aligner_shapes = {start: shape for start, (shape, _) in backbone.aligners.items()}
        self.aligners = nn.ModuleDict({str(start): layers for start, (_, layers) in backbone.aligners.items()})
        self.after = nn.Sequential(*backbone.after)
        self.alignments = nn.ModuleDict()
        for j, target in enumerate(self.shapes):
            for i, source in enumerate(self.shapes[:j]):
                if source != target and not self.has_aligner(i, j):
                    self.alignments[_alignment(i, target)] = Align2d(target[0], target[1:])

    @property
    def branches(self) -> int:
        """Number of parallel backbones."""
        return len(self.steps)

    def step(self, branch: int, i: int) -> Step:
        """The backbone from node i to node i + 1."""
        return self.steps[branch][i]  # type: ignore[index, return-value]

    def has_aligner(self, source: int, target: int) -> bool:
        """Whether the seed's own down-sampling layers align this edge."""
        shape = self.shapes[target]
        return self.shapes[source] != shape and self.aligner_shapes.get(source) == shape

    def aligning_layers(self, source: int, target: int) -> list[nn.Module]:
        """What brings node `source` to the shape of node `target`, one after the other; nothing between equal shapes."""
        if self.shapes[source] == self.shapes[target]:
            return []
        if self.has_aligner(source, target):
            layers = self.aligners[str(source)]
            assert isinstance(layers, nn.Sequential)
            return list(layers)
        return [self.alignments[_alignment(source, self.shapes[target])]]

    def is_shared(self, node: int) -> bool:
        """Whether all branches hold the same value at this node."""
        return node == 0 or node in self.joints or self.branches == 1

    def run(self, x: Tensor, choices: Sequence[Choice], operation: Callable[[Edge, str], nn.Module | None]) -> Tensor:
        """Value of the last node, and of what the seed has behind it.

        Args:
            x: node 0, `(B, C, H, W)`.
            choices: what runs, in the order of addition.
            operation: layers of an operation on an edge, None for identity.
        """
        values = [[x] for _ in range(self.branches)]
        aligned: dict[Any, Tensor] = {}
        for j in range(1, len(self.shapes)):
            for branch in range(self.branches):
                value = self.step(branch, j - 1)(values[branch][j - 1])
                for choice in choices:
                    if choice.edge.branch != branch or choice.edge.target != j or choice.operation == ZERO:
                        continue
                    layers = operation(choice.edge, choice.operation)
                    source = values[branch][choice.edge.source]
                    if not takes_source(choice.operation):
                        source = self._align(source, choice.edge, aligned)
                    result = _output(layers, source, choice.is_off)
                    value = value + (result if choice.gate is None else result * choice.gate.to(result.dtype))
                values[branch].append(value)
            if self.branches > 1 and j in self.joints:
                total = values[0][j]
                for branch in range(1, self.branches):
                    total = total + values[branch][j]
                for branch in range(self.branches):
                    values[branch][j] = total
        return self.after(values[0][-1])

    def _align(self, source: Tensor, edge: Edge, aligned: dict[Any, Tensor]) -> Tensor:
        shape = self.shapes[edge.target]
        if self.shapes[edge.source] == shape:
            return source
        key = (0 if self.is_shared(edge.source) else edge.branch, edge.source, shape)
        if key not in aligned:
            for layer in self.aligning_layers(edge.source, edge.target):
                source = layer(source)
            aligned[key] = source
        return aligned[key]


class NASBCell(CellBody):
    """A cell under search: ten candidate operations on every edge, of which those in `plan` run.

    Attributes:
        graph: NetworkX graph of the nodes; every forward pair of every branch is an edge.
        edges: the edges in the order of their architecture parameters.
        candidates: names of the operations, in the order of the columns of the architecture parameters.
        plan: what runs at the next call; `()` is the backbone alone. A search model sets it for the time of one call.
            For other plans call `add_operations` first.

    Args:
        backbone: from `make_backbone`.
        candidates: names of operations.
        branches: parallel backbones, each with edges of its own.
        name: of the cell, for messages.

    Raises:
        ConfigError: an unknown candidate, or nodes that no edge can join.
    """

    def __init__(
        self, backbone: Backbone, candidates: Sequence[str] = tuple(CANDIDATES), branches: int = 1, name: str = "cell"
    ) -> None:
        check_alignment(backbone, name)
        super().__init__(backbone, branches)
        self.candidates = check_candidates(candidates)
        self.origins = dict(backbone.origins)
        self.graph = nx.DiGraph()
        self.graph.add_nodes_from((i, {"shape": shape}) for i, shape in enumerate(self.shapes))
        nodes = range(len(self.shapes))
        self.graph.add_edges_from((i, j) for j in nodes for i in range(j))
        # Nearest predecessor first: among equal ones the nearest is kept.
        into = [(i, j) for j in nodes for i in sorted(self.graph.predecessors(j), reverse=True)]
        self.edges = [Edge(branch, i, j) for branch in range(branches) for i, j in into]
        self.operations = nn.ModuleDict()
        self.plan: Sequence[Choice] = ()

    def add_operations(self) -> None:
        """Make the layers of all candidates; apart from the constructor, so that a graph is traced without them."""
        for edge in self.edges:
            self.operations[edge_name(edge)] = self._operations(edge).train(self.training)

    def _operations(self, edge: Edge) -> nn.ModuleDict:
        source, target = self.shapes[edge.source], self.shapes[edge.target]
        made = {name: make_operation(name, source, target) for name in self.candidates}
        like = next(self.step(0, 0).conv.parameters())
        return nn.ModuleDict(
            {n: layers.to(like.device, like.dtype) for n, layers in made.items() if layers is not None}
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)`, shape of node 0, to the shape of the last node, under the current plan."""
        return self.run(x, self.plan, self.operation)

    def operation(self, edge: Edge, name: str) -> nn.Module | None:
        """Layers of a candidate, None for zero and identity."""
        own = self.operations[edge_name(edge)]
        assert isinstance(own, nn.ModuleDict)
        if name not in own:
            return None
        return own[name]

    def parameter_free(self) -> list[int]:
        """Columns of the candidates that take an aligned source."""
        return [i for i, name in enumerate(self.candidates) if name != ZERO and not takes_source(name)]


def _output(layers: nn.Module | None, source: Tensor, is_off: bool) -> Tensor:
    if not is_off:
        return source if layers is None else layers(source)
    with torch.no_grad():
        return (source if layers is None else layers(source)).detach()


def _alignment(source: int, shape: NodeShape) -> str:
    return f"{source}_to_" + "x".join(str(size) for size in shape)


def edge_name(edge: Edge) -> str:
    """`"branch0_0_to_2"`."""
    return f"branch{edge.branch}_{edge.source}_to_{edge.target}"


def choice_name(choice: Choice) -> str:
    """`"branch0_0_to_2_max_pool_3x3"`."""
    return f"{edge_name(choice.edge)}_{choice.operation}"


def check_branches(branches: int) -> int:
    """The number of branches.

    Raises:
        ConfigError: it is no int >= 1.
    """
    if isinstance(branches, bool) or not isinstance(branches, int) or branches < 1:
        raise ConfigError(f"branches must be an int >= 1, got {branches!r}")
    return branches


@layer_rule(NASBCell, searchable="edges of a cell")
def search_cell(call: Call) -> Any:
    return call.fixed_unit("a cell under search stays whole")
