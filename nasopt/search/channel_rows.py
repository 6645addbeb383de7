"""Rows of widths per channel in the matrix of all branch weights: one row for every output channel of a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nasopt.graph.branches.markers import Choice, WidthSite
from nasopt.graph.branches.run import Active
from nasopt.graph.groups import Traced
from nasopt.search.settle_channels import ChannelSite, channel_sites


class ChannelRows:
    """Choices between widths per channel.

    Args:
        module: the traced model.
        markers: all choices by path.
        first_rows: the first row of every choice, in their order.

    Attributes:
        markers: those with widths per channel.
    """

    def __init__(self, module: Traced, markers: Mapping[str, Choice], first_rows: Sequence[int]) -> None:
        self.markers: dict[str, WidthSite] = {}
        self._weights: dict[str, float] = {}
        self._rows: dict[str, tuple[int, int]] = {}
        for (path, marker), row in zip(markers.items(), first_rows, strict=True):
            if isinstance(marker, WidthSite) and marker.channels is not None:
                self.markers[path] = marker
                self._rows[path] = (row, marker.channels)
                layer: Any = module.get_submodule(path.rpartition(".")[0])
                self._weights[path] = layer.weight.numel() / marker.channels

    def sites(self, scores: Mapping[str, Sequence[float]]) -> dict[str, ChannelSite]:
        """For a fit into a budget: by path, with their scores."""
        return channel_sites(self.markers, scores, self._weights)

    def _own(self, path: str, matrix: Tensor) -> Tensor:
        """`(channels, widths)` of a matrix of all rows."""
        row, channels = self._rows[path]
        return matrix[row : row + channels, : len(self.markers[path].widths)]

    def active(self, path: str, weights: Tensor) -> list[Active]:
        """For `Paths`: all widths, each with its weights of all channels."""
        return [Active(i, share) for i, share in enumerate(self._own(path, weights).unbind(1))]

    def kept(self, path: str, branches: Sequence[int], device: torch.device) -> list[Active]:
        """For `Paths`: the position of the width of every channel."""
        return [Active(torch.tensor(self.markers[path].positions_of(branches), device=device))]

    def summary(self, path: str, theta: Tensor, branches: Sequence[int]) -> dict[str, Any]:
        """Plain values: mean probabilities of the widths, positions of those that occur, and channels by width."""
        marker = self.markers[path]
        positions = marker.positions_of(branches)
        return {
            "branches": list(marker.kinds[: len(marker.widths)]),
            "probabilities": self._own(path, theta).mean(0).tolist(),
            "chosen": sorted(set(positions)),
            "channels": {bits: positions.count(i) for i, bits in enumerate(marker.widths) if i in positions},
        }
