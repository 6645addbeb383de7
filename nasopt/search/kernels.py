"""Kernel masks: receptive field and dilation in time, rings of a 2-D kernel, all as ladders.

A ladder is an ordered set of items of which a prefix lives: item 0 always, item i if it or a later one scores above 1/2.
The receptive field is a ladder over distances from the newest tap, the dilation one over grids from the coarsest to the
finest, a ring kernel one over rings from the centre.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nasopt.graph.groups import Analysis
from nasopt.graph.kernels import AxisCut, KernelCut
from nasopt.graph.registry import has_searchable_kernel
from nasopt.search.channels import THRESHOLD
from nasopt.search.constants import Constants
from nasopt.search.price import KernelAxis
from nasopt.ste import straight_through


@dataclass(frozen=True)
class TapAxis:
    """One searched spatial dimension of one convolution.

    Attributes:
        axis: layer and spatial dimension.
        field: item of the beta ladder of every tap: its distance from the newest tap, or its ring.
        grid: item of the gamma ladder of every tap (0: on the coarsest grid), None for a ring kernel.
    """

    axis: KernelAxis
    field: tuple[int, ...]
    grid: tuple[int, ...] | None

    @property
    def size(self) -> int:
        """Number of taps K."""
        return len(self.field)


def time_axis(layer: str, taps: int) -> TapAxis:
    """Receptive field and dilation of a Conv1d; the last tap meets the newest sample."""
    levels = grid_levels(taps)
    distances = [taps - 1 - tap for tap in range(taps)]
    # Tap at distance j lies on the grids 1, 2, ..., 2^l with 2^l | j; item 0 of the ladder is the coarsest grid.
    level = [levels - 1 if j == 0 else min((j & -j).bit_length() - 1, levels - 1) for j in distances]
    return TapAxis((layer, 0), tuple(distances), tuple(levels - 1 - one for one in level))


def ring_axis(layer: str, dim: int, taps: int) -> TapAxis:
    """Rings of a Conv2d along one dimension; an even kernel has two innermost taps."""
    rings = math.ceil(taps / 2)
    return TapAxis((layer, dim), tuple(rings - 1 - min(tap, taps - 1 - tap) for tap in range(taps)), None)


def grid_levels(taps: int) -> int:
    """L = max(ceil(log2 K), 1): how many dilations 1, 2, 4, ... a kernel of K taps has."""
    return max(math.ceil(math.log2(taps)), 1)


def tap_axes(analysis: Analysis, excluded: Sequence[str]) -> list[TapAxis]:
    """Kernel axes that can be searched: of convolutions with more than one tap whose weights belong to them alone."""
    owners: dict[str, set[str]] = {}
    for path in dict(analysis.module.named_parameters(remove_duplicate=False)):
        owners.setdefault(analysis.facts.canonical(path), set()).add(path)
    used_directly = {
        analysis.facts.canonical(str(node.target)) for node in analysis.nodes.values() if node.op == "get_attr"
    }
    found: dict[KernelAxis, TapAxis] = {}
    for term in analysis.costs:
        is_layer = analysis.nodes.get(term.node) is not None and analysis.nodes[term.node].op == "call_module"
        layer = analysis.module.get_submodule(term.layer) if is_layer else None
        searched = layer is not None and has_searchable_kernel(layer) and term.layer not in excluded
        if not searched or len(owners[term.key]) > 1 or term.key in used_directly:
            continue
        for dim, taps in enumerate(term.kernel):
            assert isinstance(taps, int)
            if taps > 1:
                axis = time_axis(term.layer, taps) if len(term.kernel) == 1 else ring_axis(term.layer, dim, taps)
                found.setdefault(axis.axis, axis)
    return list(found.values())


class Ladders:
    """Many ladders over one flat parameter vector, evaluated at once. Score i is the mean of |p_k| over k >= i.

    Attributes:
        sizes: items of every ladder.
        first: position of every ladder's item 0.
        total: items of all ladders: the length of the parameter vector.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = torch.tensor(list(sizes), dtype=torch.int64)
        self.total = int(self.sizes.sum())
        self.first = self.sizes.cumsum(0) - self.sizes
        self.ladder = torch.repeat_interleave(torch.arange(len(self.sizes)), self.sizes)
        self.item = torch.arange(self.total) - self.first[self.ladder]
        # Row i averages the entries of its own ladder from i on.
        same = self.ladder[:, None] == self.ladder[None, :]
        later = (same & (self.item[None, :] >= self.item[:, None])).to(torch.float64)
        remaining = later.sum(1)
        mean = later / remaining[:, None]
        # p_i = n_i s_i - n_(i+1) s_(i+1), with n_i items from i on.
        inverse = torch.diag(remaining)
        inner = torch.nonzero(remaining > 1).reshape(-1)
        inverse[inner, inner + 1] = -remaining[inner + 1]
        self._constants = Constants(mean, self.ladder, self.item, inverse, later)

    def score(self, parameter: Tensor) -> Tensor:
        """Mean of |p_k| over k >= i for every item i, shape `(total,)`."""
        return self._constants.on(parameter.device, parameter.dtype)[0] @ parameter.abs()

    def mask(self, parameter: Tensor, threshold: float = THRESHOLD) -> Tensor:
        """0 or 1 per item, shape `(total,)`, a prefix of every ladder; straight-through to the scores."""
        ladder, item = self._constants.on(parameter.device, parameter.dtype)[1:3]
        score = self.score(parameter)
        reach = item.new_zeros(len(self.sizes)).scatter_reduce(0, ladder, item * (score.detach() > threshold), "amax")
        return straight_through(item <= reach[ladder], score)

    # --- for scores that are set, not trained

    def parameter(self, scores: Tensor) -> Tensor:
        """The parameter whose scores these are, `(total,)`; they fall along every ladder, so it is above 0."""
        return self._constants.on(scores.device, scores.dtype)[3] @ scores

    def item_gradient(self, gradient: Tensor) -> Tensor:
        """From the gradient of a parameter above 0 to that of every item's mask, shape `(total,)`."""
        return gradient @ self._constants.on(gradient.device, gradient.dtype)[3]

    def falling(self, scores: Tensor) -> Tensor:
        """Scores of which those of a ladder fall: an item counts as much as any behind it, item 0 infinitely."""
        item = self._constants.on(scores.device, scores.dtype)[2]
        return self.largest_later(torch.where(item == 0, torch.inf, scores))

    def largest_later(self, scores: Tensor) -> Tensor:
        """For every item the largest score of it and those behind it: whether it lives depends on that alone."""
        later = self._constants.on(scores.device, scores.dtype)[4]
        return torch.where(later > 0, scores, -torch.inf).amax(1) if self.total else scores


class KernelMasks:
    """Taps of all searched kernel axes, laid out one after the other.

    beta holds one ladder per axis: K distances from the newest tap, or ceil(K/2) rings from the centre. gamma holds one per
    Conv1d: its L grids from the coarsest, 2^(L-1), to the finest, 1.

    Attributes:
        axes: the axes.
        beta_size, gamma_size: lengths of the parameters.
    """

    def __init__(self, axes: Sequence[TapAxis]) -> None:
        self.axes = list(axes)
        self.field = Ladders([max(axis.field) + 1 for axis in axes])
        self.grid = Ladders([grid_levels(axis.size) for axis in axes if axis.grid is not None])
        self.beta_size, self.gamma_size = self.field.total, self.grid.total
        field_index: list[int] = []
        grid_index: list[int] = []
        axis_index: list[int] = []
        number_of_grids = 0
        for i, axis in enumerate(axes):
            field_index += [int(self.field.first[i]) + one for one in axis.field]
            axis_index += [i] * axis.size
            if axis.grid is None:
                grid_index += [self.gamma_size] * axis.size
            else:
                start = int(self.grid.first[number_of_grids])
                grid_index += [start + one for one in axis.grid]
                number_of_grids += 1
        self.tap_field = torch.tensor(field_index, dtype=torch.int64)
        self.tap_grid = torch.tensor(grid_index, dtype=torch.int64)
        self.tap_axis = torch.tensor(axis_index, dtype=torch.int64)
        self._constants = Constants(self.tap_field, self.tap_grid)

    def mask(self, beta: Tensor, gamma: Tensor | None, threshold: float = THRESHOLD) -> Tensor:
        """0 or 1 per tap, all axes one after the other, shape `(taps,)`."""
        field, grid = self._constants.on(beta.device)
        taps = self.field.mask(beta, threshold).index_select(0, field)
        if gamma is None:
            return taps
        # Ring kernels have no grid: one more item that always lives.
        grids = torch.nn.functional.pad(self.grid.mask(gamma, threshold), (0, 1), value=1.0)
        return taps * grids.index_select(0, grid)

    def cuts(self, taps: Tensor, kernels: Mapping[str, Sequence[int]]) -> dict[str, KernelCut]:
        """Kept taps of every searched layer, from the hard mask; `kernels` holds the seed's kernel sizes."""
        alive = torch.split(taps.detach().cpu() > THRESHOLD, [axis.size for axis in self.axes])
        axes: dict[str, list[AxisCut]] = {}
        for axis, mask in zip(self.axes, alive):
            layer, dim = axis.axis
            kept = torch.nonzero(mask).reshape(-1).tolist()
            step = kept[1] - kept[0] if len(kept) > 1 else 1
            cuts = axes.setdefault(layer, [AxisCut(0, 1, size) for size in kernels[layer]])
            cuts[dim] = AxisCut(kept[0], step, len(kept))
        return {layer: tuple(cuts) for layer, cuts in axes.items()}
