"""Where do the nodes of cells live in memory, and until when, while the backbones run alone?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import torch

from nasopt.cost.memory import live_sets
from nasopt.graph.buffers import ActivationMemory, Step
from nasopt.methods.nasb.cell import CellBody


@dataclass(frozen=True)
class NodeMemory:
    """The value of a node of a cell.

    Attributes:
        size: elements of its buffer.
        writable: an element-by-element operation may write over it, once nobody needs it.
        released_at: index of the first step of the backbone at which it is not live any more.
        released_behind: index of the first step directly behind which it is not. The step before `released_at`, if that
            reads the value; if the step at `released_at` writes over it, it was there until then.
    """

    size: int
    writable: bool
    released_at: float
    released_behind: float


class BackboneMemory:
    """Buffers and steps of a network whose cells are backbones without operations on edges.

    Attributes:
        live: elements at every step, float64, shape `(steps,)`.
    """

    def __init__(self, memory: ActivationMemory) -> None:
        self._steps = memory.steps
        self._memory = memory
        self._sets = live_sets(memory)
        self.live = torch.tensor([self._elements(live) for live in self._sets], dtype=torch.float64)

    def last_step(self, cell: str, branch: int, i: int) -> int:
        """Index of the last step on the way from node `i` to the next one."""
        return self._places(cell, branch, i)[-1]

    def behind(self, step: int) -> int:
        """Elements that are live between a step and the next one."""
        later = self._sets[step + 1] if step + 1 < len(self._sets) else self._memory.outputs
        return self._elements(set(self._sets[step]) & set(later))

    def node(self, name: str, cell: CellBody, branch: int, i: int) -> NodeMemory:
        """Node `i` of a branch of the cell of that name; where branches share a node, of branch 0."""
        if i == 0:
            begin = self._places(name, 0, 0)[0]
            step = self._steps[begin]
            buffer = step.overwrites or step.reads[0]
        else:
            begin = self.last_step(name, branch, i - 1) + 1
            buffer = _result(self._steps[begin - 1])
            if cell.branches > 1 and i in cell.joints:  # the last branch, and one addition per branch but the first
                begin = self.last_step(name, cell.branches - 1, i - 1) + cell.branches
        size = self._memory.buffers[buffer].elements()
        overwritten = next((k for k in range(begin, len(self._steps)) if self._steps[k].overwrites == buffer), None)
        if overwritten is not None:
            released_at: float = overwritten
            released_behind: float = overwritten
        elif buffer in self._memory.outputs:
            released_at = released_behind = math.inf
        else:
            released_behind = max(k for k, live in enumerate(self._sets) if buffer in live)
            released_at = released_behind + 1
        # Padding over space is part of its reader, so a buffer may be smaller than the node; parts of a tuple are not
        # written over (nasopt.graph.activations).
        writable = size == prod(cell.shapes[i]) and "." not in buffer
        return NodeMemory(size, writable, released_at, released_behind)

    def _places(self, cell: str, branch: int, i: int) -> list[int]:
        path = f"{cell}.steps.{branch}.{i}."
        return [k for k, step in enumerate(self._steps) if step.layer.startswith(path)]

    def _elements(self, buffers: Iterable[str]) -> int:
        return sum(self._memory.buffers[buffer].elements() for buffer in buffers)


def _result(step: Step) -> str:
    return step.overwrites or step.writes[0]
