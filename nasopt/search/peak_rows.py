"""Rows of a peak: what is left of the steps of a network, and the widths in which a runtime stores what they hold."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from nasopt.cost.runtime import LIVE, Runtime
from nasopt.graph.buffers import ActivationMemory, Step
from nasopt.graph.cost_terms import Site
from nasopt.graph.layer_shape import OTHER_KIND


def with_changed_kinds(memory: ActivationMemory, changed: frozenset[str]) -> ActivationMemory:
    """The same network, in which these calls are of another kind."""
    if not changed:
        return memory

    def now(step: Step) -> Step:
        if step.term is None or step.term.node not in changed:
            return step
        return replace(step, term=replace(step.term, kind=OTHER_KIND[step.term.kind]))

    return replace(memory, steps=type(memory.steps)(now(step) for step in memory.steps))


def stored(runtime: Runtime, bits: int | Site) -> int | Site:
    """The width in which a runtime stores an element: engines of whole bytes 8 bits at least."""
    return max(bits, 8) if isinstance(bits, int) and runtime is not LIVE else bits


def undominated(rows: Tensor) -> Tensor:
    """Those rows `(n, counts + 1)` that can be the largest: none that another one is nowhere below. Counts are positive."""
    keep: list[int] = []
    for i in rows.sum(1).argsort(descending=True, stable=True).tolist():
        if not any(bool((rows[i] <= rows[j]).all()) for j in keep):
            keep.append(i)
    return rows[sorted(keep)]
