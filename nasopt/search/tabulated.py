"""Latency of a network in a training step, without leaving the device: counts in, one look into the table.

A metric with a `table` is evaluated on the table of all layers at once, where that is small enough to be worth its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from nasopt.cost import LatencyTable, Tabulation
from nasopt.graph.cost_terms import CostTerm, Count
from nasopt.graph.layer_shape import facts_of

# Entries of float64 in a table; larger networks are priced on the kernel itself.
_MOST_ENTRIES = 1 << 22


class TabulatedCost:
    """The cost of all calls of a network as a function of the counts; make it with `tabulated_cost`."""

    def __init__(self, table: LatencyTable, scale: float, rows: Tensor, axes: int) -> None:
        self._table, self._scale, self._axes = table, scale, axes
        self._matrix, self._offset = rows[:, :-1].contiguous(), rows[:, -1].contiguous()

    def __call__(self, counts: Tensor) -> Tensor:
        """Cost for channels of every searchable group, then taps of every searched kernel axis; a scalar."""
        columns = torch.addmv(self._offset, self._matrix, counts).view(self._axes, -1)
        kernels = (columns[2], columns[3]) if self._axes == 4 else None
        return self._table(columns[0], columns[1], kernels) * self._scale


def tabulated_cost(
    tabulation: Tabulation,
    terms: Sequence[CostTerm],
    channels: Callable[[Count], Tensor],
    taps: Callable[[CostTerm, int], Tensor],
    device: torch.device,
) -> TabulatedCost | None:
    """A table of these terms, None where it would be too large or a layer does not fit into one.

    Args:
        tabulation: of the metric.
        terms: the calls.
        channels: a channel count as factors of the counts, and a constant.
        taps: the same for the taps of a term along one dimension.
        device: of the counts.

    Raises:
        UnpricedError: the target has no law for a layer.
    """
    priced = [term for term in terms if tabulation.target.status(term.kind) != "free"]
    soft_groups = any(isinstance(t.groups, Tensor) and facts_of(t.kind).grouped for t in priced)
    if not priced or soft_groups:
        return None
    kernels = [list(axis) for axis in zip(*(_two_axes(term, channels, taps) for term in priced))]
    soft_kernels = any(bool(row[:-1].any()) for axis in kernels for row in axis)
    shapes = [term.layer_shape() for term in priced]
    entries = (s.in_channels * s.out_channels // s.groups**2 * (s.taps if soft_kernels else 1) for s in shapes)
    if sum(entries) > _MOST_ENTRIES:
        return None
    columns = [[channels(term.in_channels) for term in priced], [channels(term.out_channels) for term in priced]]
    columns += kernels if soft_kernels else []
    rows = torch.stack([row for column in columns for row in column]).to(device)
    table = LatencyTable.build(tabulation.target, shapes, soft_kernels).to(device)
    return TabulatedCost(table, tabulation.scale, rows, len(columns))


def _two_axes(
    term: CostTerm, channels: Callable[[Count], Tensor], taps: Callable[[CostTerm, int], Tensor]
) -> tuple[Tensor, Tensor]:
    """Taps along the two kernel axes of a row; the first two of three dimensions merge, of which heads may be searched."""
    if len(term.kernel) > 2:
        fixed = prod(size for size in term.kernel[1:-1] if isinstance(size, int))
        return channels(term.kernel[0]) * fixed, channels(term.kernel[-1])
    found = [taps(term, dim) for dim in range(len(term.kernel))] + [channels(1)] * 2
    return found[0], found[1]
