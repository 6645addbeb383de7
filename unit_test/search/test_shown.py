"""What people see of a search: units everywhere, branches that differ look different, tables in notebooks are escaped."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import pytest
from torch import nn

from nasopt import PIT, SuperNet, SuperNetModule
from nasopt.cost import cost_report
from nasopt.export.report import ExportReport
from nasopt.tables import figure, html_table


def seed() -> nn.Module:
    branches: list[nn.Module] = [
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 5, padding=2),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU(), nn.Conv2d(4, 4, 1)),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Identity(),
    ]
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), SuperNetModule(branches), nn.Flatten(), nn.Linear(64, 2))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (139.79684166666667, "ms", "139.8 ms"),
        (0.35575833333333334, "ms", "0.3558 ms"),
        (12501632, "MAC", "12,501,632 MAC"),
        (40_000.0, "weights", "40,000 weights"),
        (123456.7, "cycles", "123,457 cycles"),
        (1.5, "", "1.5"),
        (0, "B", "0 B"),
        (float("nan"), "ms", "nan ms"),
        (float("inf"), "ms", "inf ms"),
    ],
)
def test_figures(value: float, unit: str, text: str) -> None:
    assert figure(value, unit) == text


def test_branches_are_told_apart() -> None:
    text = str(SuperNet(seed(), (3, 10, 10), regularizer="macs"))
    for branch in (
        "Conv2d 3x3 *",
        "Conv2d 5x5 ",
        "Conv2d 3x3 depthwise, ReLU, Conv2d 1x1",
        "3x3 in 2 groups",
        "Identity",
    ):
        assert branch in text
    assert "MAC now" in text
    assert "weights (smallest)" in text


class Text(HTMLParser):
    """The words of a page, and its tags, which must nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_notebooks_get_tables() -> None:
    model = PIT(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)), (3, 8, 8), regularizer="macs")
    space = model.search_space()
    report = ExportReport(None, "float ONNX", None, 12, 1e-7, notes=("<b>",))
    shown: list[Any] = [model, space, model.explain(), cost_report(model, (3, 8, 8)), report]
    for one in shown:
        words = Text(one._repr_html_()).words
        assert len(words) > 3, type(one)
    assert "<b>" in words, "the note, as text"
    assert {"4 of 4", "PIT of Sequential"} <= set(Text(model._repr_html_()).words)
    assert f"{space['cost']['macs']['now']:,} MAC" in str(space)
    assert json.loads(json.dumps(space)) == space, "a dict of plain values"


def test_text_in_tables_is_escaped() -> None:
    page = html_table([("<a>", "b"), ("<script>", "&")], title="<i>", notes=["<u>"])
    assert {"<a>", "<script>", "<i>", "<u>", "&"} <= set(Text(page).words)
