"""Rows of a peak: what is left of a network's steps, the widths in which a runtime stores what they hold, and its own data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from nasopt.cost.runtime import LIVE, Runtime
from nasopt.graph.buffers import ActivationMemory, Step
from nasopt.graph.cost_terms import Count, Site
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


def persistent_rows(
    runtime: Runtime, memory: ActivationMemory, row: Callable[[Count], Tensor]
) -> tuple[Tensor, Tensor]:
    """`(channels that have persistent data, what buffers take at least)`, a row for each."""
    layers = [row(step.term.out_channels) for step in runtime.layers(memory) if step.term is not None]
    least = [row(n) + sum(each * row(count) for each, count in more) for n, more in runtime.planning(memory)]
    return torch.stack(layers or [row(0)]), undominated(torch.stack(least or [row(0)]))
