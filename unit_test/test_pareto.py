"""Fronts and hypervolumes by hand; pictures that browsers read, with every network under its point."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from nasopt.errors import ConfigError
from nasopt.pareto import Network, front, hypervolume, plot

SVG = "{http://www.w3.org/2000/svg}"


def test_front() -> None:
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.4), (2.0, 0.8), (4.0, 0.9), (5.0, math.nan), (2.0, 0.8)]
    assert front(points) == [1, 3, 0]
    assert front([]) == []


def test_hypervolume_by_hand() -> None:
    # (1, 0.5) rules 1..2 at height 0.5, (2, 0.8) rules 2..4 at height 0.8: 0.5 + 1.6
    points = [(1.0, 0.5), (2.0, 0.8), (3.0, 0.6)]
    assert hypervolume(points, (4.0, 0.0)) == pytest.approx(2.1)
    assert hypervolume(points, (4.0, 0.5)) == pytest.approx(0.6)
    assert hypervolume(points, (1.0, 0.0)) == 0
    assert hypervolume([], (1.0, 0.0)) == 0


def test_every_network_is_in_the_picture(tmp_path: Path) -> None:
    runs = {
        "PIT <b>": [Network(31_000, 0.86, "strength 1 & more", 'jobs/"a"/'), Network(64_000, 0.91)],
        "SuperNet": [(50_000.0, 0.8), (math.nan, 0.9)],
    }
    plot(runs, "ic <i>", "MACs", "accuracy").save(tmp_path / "front.svg")
    root = ElementTree.parse(tmp_path / "front.svg").getroot()
    shown = [title.text for title in root.iter(f"{SVG}title")]
    assert shown == [
        "PIT <b> strength 1 & more: 31,000 MACs, 0.86 accuracy",
        "PIT <b> : 64,000 MACs, 0.91 accuracy",
        "SuperNet : 50,000 MACs, 0.8 accuracy",
    ]
    assert [link.get("href") for link in root.iter(f"{SVG}a")] == ['jobs/"a"/']
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert {"ic <i>", "MACs", "accuracy", "PIT <b>", "SuperNet", "50,000"} <= set(words)
    dots = [dot for dot in root.iter(f"{SVG}circle") if dot.find(f"{SVG}title") is not None]
    assert float(dots[0].get("cx", 0)) < float(dots[2].get("cx", 0)) < float(dots[1].get("cx", 0)), "by cost"
    assert float(dots[1].get("cy", 0)) < float(dots[0].get("cy", 0)) < float(dots[2].get("cy", 0)), "high is good"
    assert all(0 < float(dot.get("cx", 0)) < 720 and 0 < float(dot.get("cy", 0)) < 440 for dot in dots)


@pytest.mark.parametrize(
    "points", [[(3.0, 0.5)], [(3.0, 0.5), (3.0, 0.5)], [(1e-9, -1e9), (1e12, 1e9)], [(7.0, 0.0), (7.1, 0.0)]]
)
def test_pictures_of_few_or_far_points(points: list[tuple[float, float]]) -> None:
    for log in (True, False):
        ElementTree.fromstring(plot({"a": points}, log=log).svg)


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(ConfigError, match="no point with a finite cost"):
        plot({"a": [(math.nan, 1.0)], "b": []})
    with pytest.raises(ConfigError, match="the smallest cost must be a finite number > 0, got 0"):
        plot({"a": [(0, 1.0)]})
