"""Widths per channel that keep to a budget: all channels at once, by one price per bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nasopt.graph.branches.markers import WidthSite
from nasopt.graph.branches.regions import Decisions

# Logarithms of the prices between which the smallest sufficient one lies, and halvings to find it.
_LOWEST, _HIGHEST, _HALVINGS = -5.0, 25.0, 30
_FULL = 0.98


@dataclass(frozen=True)
class ChannelSite:
    """The widths of the channels of one layer.

    Attributes:
        marker: the choice.
        scores: of every channel and width, `(channels, widths)`.
        cost: bits of a channel at every width, as a share of all bits, `(widths,)`.
    """

    marker: WidthSite
    scores: Tensor
    cost: Tensor

    def at(self, price: float) -> tuple[int, ...]:
        """The best widths where every bit has a price."""
        return self.marker.branches_of((self.scores - price * self.cost).argmax(1).tolist())


def channel_sites(
    markers: Mapping[str, WidthSite], scores: Mapping[str, Sequence[float]], weights: Mapping[str, float]
) -> dict[str, ChannelSite]:
    """Of choices between widths per channel: by path, with their scores and the weights of one channel."""
    total = sum(weights[path] * (marker.channels or 1) * marker.widths[-1] for path, marker in markers.items())
    return {
        path: ChannelSite(
            marker,
            torch.tensor(scores[path], dtype=torch.float64).reshape(-1, len(marker.widths)),
            torch.tensor(marker.widths, dtype=torch.float64) * weights[path] / total,
        )
        for path, marker in markers.items()
    }


def narrow_channels(
    branches: Decisions, sites: Mapping[str, ChannelSite], use: Callable[[Decisions], float], most: float = 1.0
) -> Decisions:
    """Widths at the lowest price of a bit at which `use` is `most` at most; the narrowest where there is none."""

    def at(price: float) -> Decisions:
        return {**branches, **{path: site.at(price) for path, site in sites.items()}}

    if not sites or use(branches) <= most:
        return branches
    low, high = _LOWEST, _HIGHEST
    if use(at(math.exp(low))) <= most:
        return at(math.exp(low))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if use(at(math.exp(middle))) <= most else (middle, high)
    return at(math.exp(high))


def widen_channels(
    branches: Decisions, sites: Mapping[str, ChannelSite], use: Callable[[Decisions], float]
) -> Decisions:
    """Wider widths where limits leave room: one step for as many channels as fit, first where a step costs least score."""
    found: Decisions = dict(branches)
    blocked: set[str] = set()
    while use(found) < _FULL:
        steps = sorted(
            (float(site.scores[channel, i] - site.scores[channel, i + 1]), path, channel)
            for path, site in sites.items()
            for channel, i in enumerate(site.marker.positions_of(found[path]))
            if path not in blocked and i + 1 < len(site.marker.widths)
        )
        if not steps:
            break
        fits, too_many = 0, len(steps) + 1
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            fits, too_many = (middle, too_many) if use(_wider(found, sites, steps[:middle])) <= 1 else (fits, middle)
        found = _wider(found, sites, steps[:fits])
        if fits < len(steps):  # channels of other layers may be smaller
            blocked.add(steps[fits][1])
    return found


def _wider(
    found: Decisions, sites: Mapping[str, ChannelSite], steps: Sequence[tuple[float, str, int]]
) -> dict[str, tuple[int, ...]]:
    """One step wider for these channels."""
    positions = {path: site.marker.positions_of(found[path]) for path, site in sites.items()}
    for _, path, channel in steps:
        positions[path][channel] += 1
    return {**found, **{path: sites[path].marker.branches_of(own) for path, own in positions.items()}}
