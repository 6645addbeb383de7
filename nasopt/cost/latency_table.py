"""`LatencyTable`: the cycles of all layers of a network in one buffer, priced in a handful of tensor operations.

Every layer's cycles are computed once for all its counts; these grids lie one after the other in a flat tensor. A step
finds the knots around every layer's counts, gathers its corners in one go, and interpolates, without leaving the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasopt.checked import checked
from nasopt.cost.latency import between_knots, evaluate, exact_row
from nasopt.cost.targets.registry import get_target
from nasopt.cost.targets.rows import COLUMNS
from nasopt.cost.targets.target import Target
from nasopt.errors import ConfigError, UnpricedError
from nasopt.graph.layer_shape import LayerShape, facts_of

_AXES = tuple(COLUMNS.index(name) for name in ("out", "in", "k0", "k1"))
_GROUPS = COLUMNS.index("groups")


@dataclass(frozen=True)
class LatencyTable:
    """Tabulated cycles of the `l` layers of one network; make it with `LatencyTable.build`.

    Attributes:
        target: whose cycles these are.
        values: all grids, flattened: float64 `(total,)`.
        offsets: start of each layer's grid: int64 `(l,)`.
        strides: step of each axis (out, in, k0, k1) in the flat grid: int64 `(4, l)`.
        tiles: distance of knots on each axis, float64 `(4, l)`.
        tiles_held: tiles that each axis of the grid spans, 0 for an axis that is not tabulated: float64 `(4, l)`.
        groups: groups of each layer: channel counts are divided by them, float64 `(l,)`.
    """

    target: Target
    values: Tensor
    offsets: Tensor
    strides: Tensor
    tiles: Tensor
    tiles_held: Tensor
    groups: Tensor

    @staticmethod
    @checked
    def build(target: str | Target, shapes: Sequence[LayerShape], soft_kernels: bool = False) -> LatencyTable:
        """Tabulate layers up to the counts in `shapes` (the seed's, integers).

        Args:
            target: name or object.
            shapes: the largest each layer call can become; free kinds are not allowed here.
            soft_kernels: also tabulate every number of taps, for searches over kernels.

        Raises:
            UnpricedError: the target has no law for a layer's kind.
            ConfigError: a count is not a positive integer.
        """
        target = get_target(target)
        grids, offsets, strides, tiles, held, groups = [], [0], [], [], [], []
        for shape in shapes:
            if shape.kind not in target.priced:
                raise UnpricedError(
                    f"target {target.name!r} has no table for {shape.kind!r} layers ({target.status(shape.kind)}): "
                    f"leave free ones out, and price only {', '.join(sorted(target.priced))}"
                )
            row = np.asarray(exact_row(shape))
            tile, counts = _counts(target, shape.kind, row, soft_kernels)
            grids.append(evaluate(target, _grid(shape.kind, row, counts)).ravel())
            lengths = [len(axis) for axis in counts]
            steps = np.concatenate([np.cumprod(lengths[::-1])[-2::-1], [1]])
            offsets.append(offsets[-1] + len(grids[-1]))
            strides.append(steps)
            tiles.append(tile)
            held.append([0 if length == 1 else length // step for length, step in zip(lengths, tile, strict=True)])
            groups.append(row[_GROUPS])
        return LatencyTable(
            target,
            values=torch.from_numpy(np.concatenate([*grids, np.empty(0)]).astype(np.float64)),
            offsets=torch.tensor(offsets[:-1], dtype=torch.int64),
            strides=torch.from_numpy(np.asarray(strides, dtype=np.int64).reshape(-1, 4).T.copy()),
            tiles=torch.tensor(tiles, dtype=torch.float64).reshape(-1, 4).T.contiguous(),
            tiles_held=torch.tensor(held, dtype=torch.float64).reshape(-1, 4).T.contiguous(),
            groups=torch.tensor(groups, dtype=torch.float64),
        )

    def __call__(
        self,
        in_counts: Tensor,
        out_counts: Tensor,
        kernels: tuple[Tensor, Tensor] | None = None,
        calls: Tensor | None = None,
    ) -> Tensor:
        """Expected cycles of the network: a scalar, differentiable in everything that is given.

        Args:
            in_counts, out_counts: soft channels of each layer `(l,)`; for depthwise layers only the outputs count.
            kernels: soft taps `(l,)` along both kernel axes; needs a table with `soft_kernels`.
            calls: how often each layer runs, or the probability that it does `(l,)`; once if left out.
        """
        cycles = self.per_layer(in_counts, out_counts, kernels)
        return cycles.sum() if calls is None else (cycles * calls).sum()

    def per_layer(self, in_counts: Tensor, out_counts: Tensor, kernels: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Cycles of each layer `(l,)` float64; arguments as for a call.

        Raises:
            ConfigError: the number of counts is not the number of layers.
        """
        layers = len(self.offsets)
        axes = [out_counts / self.groups, in_counts / self.groups, *(kernels or ())]
        if any(axis.shape != (layers,) for axis in axes):
            raise ConfigError(
                f"LatencyTable of {layers} layers: counts have shapes {[tuple(axis.shape) for axis in axes]}: "
                f"give one value per layer, in the order of build"
            )
        used = len(axes)
        counts = torch.stack(axes).to(torch.float64)  # (a, l)
        tiles, held, strides = self.tiles[:used], self.tiles_held[:used], self.strides[:used]

        def exact(whole: Tensor) -> Tensor:
            places = torch.where(held > 0, whole - 1, 0.0).to(torch.int64) * strides  # the grid holds count c at c - 1
            return self.values[self.offsets + places.sum(1)]

        return between_knots(counts, tiles, exact, held)

    def to(self, device: torch.device | str) -> LatencyTable:
        """The same table on another device."""
        tensors = ("values", "offsets", "strides", "tiles", "tiles_held", "groups")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})


def _counts(target: Target, kind: str, row: Any, soft_kernels: bool) -> tuple[list[int], list[Any]]:
    """Tile and counts of the four axes (out, in, k0, k1), channels per group; a fixed axis has one count."""
    out, inp, k0, k1 = (int(row[axis]) for axis in _AXES)
    groups = int(row[_GROUPS])
    follows = facts_of(kind).one_count
    tiles = [target.tile_out, target.tile_in, 1, 1]
    largest = [out // groups, 1 if follows else inp // groups, k0, k1]
    fixed = [False, follows, not soft_kernels, not soft_kernels]
    counts: list[Any] = []
    for count, tile, still in zip(largest, tiles, fixed, strict=True):
        last = max(-(-count // tile) * tile, 2)  # whole tiles, and at least one segment
        counts.append(np.asarray([count]) if still else np.arange(1, last + 1))
    return tiles, counts


def _grid(kind: str, row: Any, counts: list[Any]) -> Any:
    """Rows of a layer at all combinations of its counts: int64 (o, i, k0, k1, 12)."""
    axes = np.meshgrid(*counts, indexing="ij")
    grid = np.broadcast_to(row, (*axes[0].shape, len(COLUMNS))).copy()
    groups = row[_GROUPS]
    for column, values in zip(_AXES, axes, strict=True):
        grid[..., column] = values * (groups if column in _AXES[:2] else 1)
    if facts_of(kind).one_count:
        multiplier = max(1, round(row[_AXES[0]] / row[_AXES[1]]))
        grid[..., _AXES[1]] = -(-grid[..., _AXES[0]] // multiplier)
    return grid
