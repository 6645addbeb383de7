"""The page about a folder of networks."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import nasopt
from benchmarks_mlperf_tiny.cli import main
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.files import write_json
from benchmarks_mlperf_tiny.report import write_report


def write_summary(folder: Path, method: str, macs: int, test: float, name: str, **changes: Any) -> None:
    config: dict[str, Any] = {"task": "ic", "data": "digits", "method": method, "strength": 1.0, "seed": 0}
    layer = {"name": "stem", "kind": "Conv2d", "inputs": 3, "outputs": 16, "kernel": [3, 3]}
    seed = {"params": 10, "size": 10, "macs": 1000, "val": None, "test": None, "seconds": None}
    latency = {"cortex_m4_ms": 7.125, "cortex_m7_ms": 2.0, "gap8_ms": 1.0}
    found = {
        "params": 10,
        "size": 10,
        "macs": macs,
        "memory": 4321,
        **latency,
        "val": test,
        "test": test,
        "seconds": 1.0,
    }
    summary = {
        "config": config,
        "figure": "accuracy",
        "synthetic": False,
        "seed": {**seed, "layers": {"stem": layer, "gone<": layer}},
        "found": {**found, "layers": {"stem": {**layer, "outputs": 5}}},
    }
    write_json(folder / name / "summary.json", {**summary, **changes})


class Checker(HTMLParser):
    """Fails on tags that do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_summary(tmp_path, "seed", 1000, 0.9, "plain")
    write_summary(tmp_path, "pit", 250, 0.8, "small")
    write_summary(tmp_path, "pit", 500, 0.7, "beaten")
    assert main(["report", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert '<tr class="front"><td><a href="small/">small</a>' in page
    assert '<tr><td><a href="beaten/">beaten</a>' in page
    assert "<title>pit 1, random seed 0: 250 MACs, 0.8 accuracy, test</title>" in page, "hover"
    assert "<td>seed network</td>" in page
    assert f"nasopt {nasopt.__version__}, torch {torch.__version__}" in page
    assert f"report --out {tmp_path}" in page
    assert "<script" not in page
    assert "src=" not in page, "the page needs no other file"
    assert "0.6000" in page, "hypervolume: (1000 - 250) * 0.8 / 1000"
    assert "3-&gt;5 3x3" in page
    assert "<th>cortex_m4 [ms]</th>" in page
    assert "<td>7.125</td>" in page
    assert "<td>4,321</td>" in page
    assert "gone&lt;" in page
    assert "62,543" in page, "a published point"
    assert (tmp_path / "pareto-ic-digits.png").read_bytes().startswith(b"\x89PNG")
    assert "report.html" in capsys.readouterr().out


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no finished network lies below"):
        write_report(tmp_path)


def test_a_damaged_summary_is_named(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(BenchmarkError, match=r"summary\.json cannot be read"):
        write_report(tmp_path)


def test_a_damaged_summary_costs_its_own_row(tmp_path: Path) -> None:
    write_summary(tmp_path, "pit", 250, 0.8, "small")
    write_summary(tmp_path, "pit", 500, 0.7, "damaged")
    path = tmp_path / "damaged" / "summary.json"
    path.write_text(path.read_text().replace("500", "900"))
    page = write_report(tmp_path).read_text()
    assert ">small</a>" in page
    assert "Left out" in page
    assert "checksum is another one" in page


EVIL = '"><script>alert(1)</script><b x="'


@pytest.mark.parametrize("key", ["task", "data", "method", "strength", "seed", "figure", "layer", "number"])
def test_a_summary_of_a_stranger(tmp_path: Path, key: str) -> None:
    """Text is shown as text, values of the wrong kind are refused, and nothing is written outside of the folder."""
    (tmp_path / "in").mkdir()
    write_summary(tmp_path / "in", "pit", 250, 0.8, "good")
    config = {"task": "ic", "data": "digits", "method": "pit", "strength": 1.0, "seed": 0}
    changes: dict[str, Any] = {"config": {**config, key: EVIL} if key in config else config}
    if key == "figure":
        changes["figure"] = EVIL
    found = json.loads((tmp_path / "in" / "good" / "summary.json").read_text())["found"]
    if key == "layer":
        changes["found"] = {**found, "layers": {EVIL: {**found["layers"]["stem"], "inputs": EVIL}}}
    if key == "number":
        changes["found"] = {**found, "macs": EVIL}
    write_summary(tmp_path / "in", "pit", 250, 0.8, "stranger", **changes)
    for place in ("task", "data"):
        if key == place:
            away = {**config, key: "../../../out"}
            write_summary(tmp_path / "in", "pit", 250, 0.8, "away", config=away)
    page = write_report(tmp_path / "in").read_text()
    assert "<script" not in page
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    pictures = [path for path in (tmp_path / "in").iterdir() if path.is_file()]
    assert all(path.name == "report.html" or path.name.startswith("pareto-") for path in pictures)
