"""A NASB cell: a binary backbone, and between any two of its nodes an edge with candidate operations, as layer choices."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nasopt.methods.nasb.backbone import Backbone, copies
from nasopt.methods.nasb.candidates import Settings, make_operation, needs_alignment
from nasopt.methods.nasb.main_path import NodeShape
from nasopt.nn import Align2d
from nasopt.search.layer_choice import SuperNetModule


class Cell(nn.Module):
    """Value of node j > 0 = what the backbone makes of node j - 1, plus the operations that are kept of all edges into j.

    Each node is one `SuperNetModule`: its branches are the candidates on all edges into the node, nearest predecessor first,
    its groups are the edges. With several branches of the backbone, nodes at which a block of the seed ends hold the sum over
    them, for all of them.

    Across a change of shape, a parameter-free operation takes an aligned source: aligned by the seed's own
    down-sampling layers where the seed has them from that node on, else by `Align2d`. A convolution strides.

    Attributes:
        shapes: of the nodes 0..n.
        branches: number of parallel backbones.

    Args:
        backbone: from `make_backbone`.
        settings: of the search; without candidates the backbone runs alone.
        name: of the cell, for messages.

    Raises:
        ConfigError: nodes that no edge can join, or a node that keeps more operations than its edges have candidates.
    """

    def __init__(self, backbone: Backbone, settings: Settings, name: str) -> None:
        super().__init__()
        self.shapes = list(backbone.shapes)
        self.branches = settings.branches
        self._joints = frozenset(backbone.joints | {len(self.shapes) - 1})
        self.steps = nn.ModuleList(nn.ModuleList(steps) for steps in copies(backbone, settings.branches))
        self._aligner_shapes = {start: shape for start, (shape, _) in backbone.aligners.items()}
        self.aligners = nn.ModuleDict({str(start): layers for start, (_, layers) in backbone.aligners.items()})
        self.alignments = nn.ModuleDict()
        self.into = nn.ModuleDict()
        # What the choices take: node, and whether it is aligned.
        self._sources: dict[str, list[tuple[int, bool]]] = {}
        for branch in range(self.branches):
            for j in range(1, len(self.shapes)) if settings.candidates else ():
                self._add_choice(branch, j, settings)
        self.after = nn.Sequential(*backbone.after)

    def _add_choice(self, branch: int, j: int, settings: Settings) -> None:
        sources: list[tuple[int, bool]] = []
        operations, takes, names = [], [], []
        like = next(self.steps[branch][j - 1].conv.parameters())  # type: ignore[index, union-attr]
        for i in reversed(range(j)):
            for candidate in settings.candidates:
                is_aligned = needs_alignment(candidate) and self.shapes[i] != self.shapes[j]
                if (i, is_aligned) not in sources:
                    sources.append((i, is_aligned))
                takes.append(sources.index((i, is_aligned)))
                names.append(operation_name(i, candidate))
                operations.append(make_operation(candidate, self.shapes[i], self.shapes[j]).to(like.device, like.dtype))
            if self.shapes[i] != self.shapes[j] and not self.has_aligner(i, j):
                self.alignments[_alignment(i, self.shapes[j])] = Align2d(self.shapes[j][0], self.shapes[j][1:])
        key = node_key(branch, j)
        keep = settings.keep_output if j == len(self.shapes) - 1 else settings.keep
        groups = [len(settings.candidates)] * j
        self.into[key] = SuperNetModule(operations, keep=keep, groups=groups, takes=takes, names=names)
        self._sources[key] = sources

    def has_aligner(self, source: int, target: int) -> bool:
        """Whether the seed's own down-sampling layers align this edge."""
        shape = self.shapes[target]
        return self.shapes[source] != shape and self._aligner_shapes.get(source) == shape

    def forward(self, x: Tensor) -> Any:
        """`(B, C, H, W)`, shape of node 0, to the shape of the last node, and what the seed has after it."""
        values = [[x] for _ in range(self.branches)]
        aligned: dict[Any, Tensor] = {}

        def source(branch: int, i: int, j: int, is_aligned: bool) -> Tensor:
            if not is_aligned:
                return values[branch][i]
            is_shared = i == 0 or i in self._joints
            key = (0 if is_shared else branch, i, self.shapes[j])
            if key not in aligned:
                alignment = self.aligners[str(i)] if self.has_aligner(i, j) else self._alignment(i, j)
                aligned[key] = alignment(values[branch][i])
            return aligned[key]

        for j in range(1, len(self.shapes)):
            for branch in range(self.branches):
                key = node_key(branch, j)
                # First what is added up, so that one sum and the step are held at most.
                kept = (
                    [self.into[key](*(source(branch, i, j, a) for i, a in self._sources[key]))] if self._sources else []
                )
                value = self.steps[branch][j - 1](values[branch][j - 1])  # type: ignore[index, operator]
                values[branch].append(value + kept[0] if kept else value)
            if j in self._joints and self.branches > 1:
                total = values[0][j]
                for branch in range(1, self.branches):
                    total = total + values[branch][j]
                for branch in range(self.branches):
                    values[branch][j] = total
        return self.after(values[0][-1])

    def _alignment(self, i: int, j: int) -> nn.Module:
        return self.alignments[_alignment(i, self.shapes[j])]


def node_key(branch: int, node: int) -> str:
    """Name of a node's choice among those of its cell: `"2"`, of a further backbone `"2_branch1"`."""
    return f"{node}_branch{branch}" if branch else str(node)


def operation_name(source: int, candidate: str) -> str:
    """Name of a candidate on an edge among the branches of a node's choice: `"from_0_max_pool_3x3"`."""
    return f"from_{source}_{candidate}"


def place_of(settings: Settings, source: int, target: int, candidate: str) -> int:
    """Index of a candidate on the edge `source` -> `target` among the branches of the target's choice."""
    return (target - 1 - source) * len(settings.candidates) + settings.candidates.index(candidate)


def _alignment(source: int, shape: NodeShape) -> str:
    return f"{source}_to_" + "x".join(str(size) for size in shape)
