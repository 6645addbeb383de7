"""Pareto front and hypervolume of networks: those that no other beats in both cost and figure."""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[float, float]


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the non-dominated points, by rising cost.

    Args:
        points: `(cost, figure)`: a small cost and a large figure are good. Points that are not finite never belong.

    Returns:
        Each index whose point no other matches or beats in both numbers; of equal points the first.
    """
    usable = [index for index, point in enumerate(points) if all(map(math.isfinite, point))]
    order = sorted(usable, key=lambda index: (points[index][0], -points[index][1], index))
    chosen: list[int] = []
    best = -math.inf
    for index in order:
        if points[index][1] > best:
            best = points[index][1]
            chosen.append(index)
    return chosen


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Area that the points dominate, within a reference point: larger is better.

    Args:
        points: `(cost, figure)`.
        reference: the worst cost and figure that count, for example the seed's cost and the figure of guessing.

    Returns:
        Area in units of cost times figure; 0 where no point is better than the reference in both.
    """
    inside = [point for point in points if point[0] < reference[0] and point[1] > reference[1]]
    chosen = [inside[index] for index in front(inside)]
    ends = [*(cost for cost, _ in chosen[1:]), reference[0]][: len(chosen)]
    return sum((end - cost) * (figure - reference[1]) for (cost, figure), end in zip(chosen, ends, strict=True))
