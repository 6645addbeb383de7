"""Pareto fronts of networks: those that no other beats in both cost and figure; hypervolume, and a picture of them.

```python
from nasopt import pareto

runs = {"PIT": [pareto.Network(31_000, 0.86, "strength 1"), pareto.Network(64_000, 0.91, "strength 0.3")]}
pareto.plot(runs, cost="MACs", figure="accuracy").save("front.svg")       # hover shows every network
```
"""

from __future__ import annotations

import html
import math
import numbers
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nasopt.arguments import check_number, short
from nasopt.checked import checked
from nasopt.errors import ConfigError
from nasopt.tables import figure as with_unit

Point = tuple[float, float]


class Network(NamedTuple):
    """A point of a plot.

    Attributes:
        cost: of the network; small is good.
        figure: of merit; large is good.
        text: what hover shows of it beside both numbers.
        link: address that a click opens, or empty.
    """

    cost: float
    figure: float
    text: str = ""
    link: str = ""


@checked
def front(points: Sequence[Point]) -> list[int]:
    """Indices of the non-dominated points, by rising cost.

    Args:
        points: `(cost, figure)`: a small cost and a large figure are good. Points that are not finite never belong.

    Returns:
        Each index whose point no other matches or beats in both numbers; of equal points the first.

    Raises:
        ConfigError: a point is no pair of numbers.
    """
    _check("pareto.front", points)
    usable = [index for index, point in enumerate(points) if all(map(math.isfinite, point))]
    order = sorted(usable, key=lambda index: (points[index][0], -points[index][1], index))
    chosen: list[int] = []
    best = -math.inf
    for index in order:
        if points[index][1] > best:
            best = points[index][1]
            chosen.append(index)
    return chosen


@checked
def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Area that the points dominate, within a reference point: larger is better.

    Args:
        points: `(cost, figure)`.
        reference: the worst cost and figure that count, for example the seed's cost and the figure of guessing.

    Returns:
        Area in units of cost times figure; 0 where no point is better than the reference in both.

    Raises:
        ConfigError: a point is no pair of numbers.
    """
    _check("pareto.hypervolume", points)
    _check("pareto.hypervolume: reference", [reference])
    inside = [point for point in points if point[0] < reference[0] and point[1] > reference[1]]
    chosen = [inside[index] for index in front(inside)]
    ends = [*(cost for cost, _ in chosen[1:]), reference[0]][: len(chosen)]
    return sum((end - cost) * (figure - reference[1]) for (cost, figure), end in zip(chosen, ends, strict=True))


def _check(where: str, points: object) -> None:
    """Raises `ConfigError` where points are no pairs of numbers, or `Network`s."""
    is_list = isinstance(points, Sequence) and not isinstance(points, (str, bytes))
    for point in points if is_list else [points]:  # type: ignore[attr-defined]
        pair = list(point)[:2] if isinstance(point, (tuple, list)) and len(point) >= 2 else [None]
        if not is_list or any(isinstance(x, bool) or not isinstance(x, numbers.Real) for x in pair):
            raise ConfigError(f"{where}: points are pairs of numbers, (cost, figure), got {short(point)}")


_COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#0a7d8c", "#57606a")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 440, 70, 20, 40, 55


@dataclass(frozen=True)
class Plot:
    """A picture as SVG text; a notebook shows it.

    Attributes:
        svg: one `<svg>` element without scripts and without other files; hover over a point shows its network.
    """

    svg: str

    def _repr_html_(self) -> str:
        return self.svg

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the picture as a file that browsers and editors open."""
        Path(path).write_text(f'<?xml version="1.0" encoding="UTF-8"?>\n{self.svg}\n', encoding="utf-8")


@checked
def plot(
    networks: Mapping[str, Sequence[Network | Point]],
    title: str = "",
    cost: str = "cost",
    figure: str = "figure",
    log: bool = True,
) -> Plot:
    """Points of every group, and a step line through those that no other of the group beats.

    Args:
        networks: points by group, a method for example: `Network`s or pairs `(cost, figure)`. Points that are not finite are
            left out.
        title, cost, figure: words for the picture and its axes.
        log: whether the axis of costs is logarithmic.

    Raises:
        ConfigError: there is no finite point, or with `log` a cost that is not above 0.
    """
    for label, points in networks.items():
        _check(f"pareto.plot: {label}", points)
    groups = {label: [Network(*point) for point in points] for label, points in networks.items()}
    groups = {label: [n for n in points if math.isfinite(n.cost + n.figure)] for label, points in groups.items()}
    every = [network for points in groups.values() for network in points]
    if not every:
        raise ConfigError("pareto.plot: there is no point with a finite cost and figure")
    if log:
        check_number("pareto.plot with log=True: the smallest cost", min(n.cost for n in every), above=0)
    scale = math.log10 if log else float
    xs, ys = _range([scale(n.cost) for n in every]), _range([n.figure for n in every])

    def place(network: Network) -> tuple[float, float]:
        x = _LEFT + (scale(network.cost) - xs[0]) / (xs[1] - xs[0]) * (_WIDTH - _LEFT - _RIGHT)
        y = _HEIGHT - _BOTTOM - (network.figure - ys[0]) / (ys[1] - ys[0]) * (_HEIGHT - _TOP - _BOTTOM)
        return round(x, 1), round(y, 1)

    parts = [_frame(title, cost, figure)]
    for tick in _ticks(xs, log):
        x, _ = place(Network(tick, ys[0]))
        parts.append(f'<path d="M{x} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#d0d7de" stroke-width=".5"/>')
        parts.append(_words(x, _HEIGHT - _BOTTOM + 18, with_unit(tick), "middle"))
    for tick in _ticks(ys, False):
        _, y = place(Network(10 ** xs[0] if log else xs[0], tick))
        parts.append(f'<path d="M{_LEFT} {y}H{_WIDTH - _RIGHT}" stroke="#d0d7de" stroke-width=".5"/>')
        parts.append(_words(_LEFT - 6, y + 4, with_unit(tick), "end"))
    for index, (label, points) in enumerate(groups.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        best = [place(points[i]) for i in front([(n.cost, n.figure) for n in points])]
        steps = "".join(f"H{x}V{y}" for x, y in best[1:])
        if len(best) > 1:
            start = f"M{best[0][0]} {best[0][1]}{steps}"
            parts.append(f'<path d="{start}" fill="none" stroke="{colour}" stroke-width="1.5" opacity=".6"/>')
        parts += [_dot(*place(network), colour, label, network, cost, figure) for network in points]
        below = _HEIGHT + 10 + 18 * index  # below the axes: no point is covered
        parts.append(f'<circle cx="{_LEFT + 4}" cy="{below - 4}" r="4" fill="{colour}"/>')
        parts.append(_words(_LEFT + 14, below, label, "start"))
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT + 18 * len(groups)}" style="max-width:100%;height:auto"'
    style = 'font-family="system-ui,sans-serif" font-size="12" fill="#1f2328"'
    return Plot(
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{_WIDTH}" {size} {style}>{"".join(parts)}</svg>'
    )


def _frame(title: str, cost: str, figure: str) -> str:
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    lines = f"M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"
    side = f'<g transform="rotate(-90 16 {middle})">{_words(16, middle, figure, "middle")}</g>'
    below = _words((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 14, cost, "middle")
    return f'{_words(_LEFT, 22, title, "start")}<path d="{lines}" fill="none" stroke="#57606a"/>{side}{below}'


def _dot(x: float, y: float, colour: str, label: str, network: Network, cost: str, figure: str) -> str:
    text = f"{label} {network.text}: {with_unit(network.cost)} {cost}, {with_unit(network.figure)} {figure}"
    dot = f'<circle cx="{x}" cy="{y}" r="4.5" fill="{colour}"><title>{html.escape(text)}</title></circle>'
    return f'<a href="{html.escape(network.link)}">{dot}</a>' if network.link else dot


def _words(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
    return low - margin, high + margin


def _ticks(ends: tuple[float, float], log: bool) -> list[float]:
    """Round numbers between two ends; of a logarithmic axis 1, 2 and 5 of every power of ten."""
    if log:
        powers = range(math.floor(ends[0]), math.ceil(ends[1]) + 1)
        numbers = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        return [number for number in numbers if ends[0] <= math.log10(number) <= ends[1]] or [10.0 ** (sum(ends) / 2)]
    step = 10.0 ** math.floor(math.log10(ends[1] - ends[0]))
    step = next(size for size in (step / 5, step / 2, step, step * 2) if (ends[1] - ends[0]) / size <= 7)
    first = math.ceil(ends[0] / step)
    return [round(step * i, 12) for i in range(first, math.floor(ends[1] / step) + 1)]
