"""Rows of widths per channel in the matrix of all branch weights: one row for every output channel of a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nasopt.graph.branches.markers import Choice, WidthSite, choices_of
from nasopt.graph.branches.run import Active
from nasopt.graph.groups import Analysis, Traced
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


class CutSite(NamedTuple):
    """A choice between widths per channel that loses channels.

    Attributes:
        widths: how many there are.
        channels: how many it had.
        left: positions of those that stay.
    """

    widths: int
    channels: int
    left: Tensor


def cut_sites(analysis: Analysis, keep: Tensor, small: Traced) -> dict[str, CutSite]:
    """Let widths of channels that are not kept leave a slimmed copy of `analysis.module`.

    Returns:
        By path, of every choice that has lost some.
    """
    found: dict[str, CutSite] = {}
    for path, marker in choices_of(small).items():
        layer, _, name = path.rpartition(".")
        steps = analysis.facts.canonical(f"{layer}.weight_log_steps")
        labels = analysis.facts.slices.get((steps, 1))
        if not isinstance(marker, WidthSite) or marker.channels is None or labels is None or bool(keep[labels].all()):
            continue
        left = torch.nonzero(keep[labels]).reshape(-1)
        found[path] = CutSite(len(marker.widths), marker.channels, left)
        setattr(small.get_submodule(layer), name, WidthSite(marker.widths, marker.settings, len(left)))
    return found


def logits_left(layout: Mapping[str, tuple[int, int]], total: int, cut: Mapping[str, CutSite]) -> Tensor:
    """Numbers of the logits that stay; `layout` holds the first logit and the count of every choice, of `total`."""
    stays = torch.ones(total, dtype=torch.bool)
    for path, (widths, channels, left) in cut.items():
        first, count = layout[path]
        rows = torch.zeros(channels, widths, dtype=torch.bool)
        rows[left] = True
        stays[first : first + count] = rows.reshape(-1)
    return torch.nonzero(stays).reshape(-1)
