"""The page about a sweep in a real browser, as wide as a phone and as a screen: nothing overflows, hover reaches every point."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_report import write_summary

from benchmarks_mlperf_tiny.report import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS, HEIGHT = (360, 1280), 1500
BLUE = (0x1F, 0x6F, 0xEB)  # of the first group of points
NETWORKS = {
    "ic-digits-pit-macs-strength0.5-seed0": (250_000, 0.8),
    "ic-digits-pit-macs-strength0.25-seed0": (500_000, 0.91),
    "ic-digits-pit_supernet-cortex_m4_ms-budget-size=10000,memory=tflm-seed1": (500_100, 0.909),  # over the one before
    "ic-digits-pit-macs-strength2-seed0": (12_501_632, 0.1),
}
# What the page's own window tells of it: every point of the picture is brought into view, and asked for where it is.
MEASURE = """
addEventListener("load", () => {
  const told = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, window = frame.contentWindow, box = e => e.getBoundingClientRect()
    const points = [...page.querySelectorAll("circle:has(> title)")].map(point => {
      point.scrollIntoView({ block: "center", inline: "center" })
      const { x, y, width, height } = box(point)
      const under = page.elementFromPoint(x + width / 2, y + height / 2)
      const shown = under?.querySelector("title")?.textContent ?? ""
      return { text: point.textContent, shown, link: point.parentNode.getAttribute("href") }
    })
    window.scrollTo(0, 0)
    const small = [...page.querySelectorAll("svg text")].filter(e => e.textContent && box(e).height < 8).map(e => e.textContent)
    const edge = [...page.querySelectorAll("svg")].map(box)[0]
    const words = [...page.querySelectorAll("svg text")].filter(e => {
      const { left, right, top, bottom } = box(e)
      return left < edge.left - 1 || right > edge.right + 1 || top < edge.top - 1 || bottom > edge.bottom + 1
    }).map(e => e.textContent)
    const wide = [...page.body.children].filter(e => box(e).right > window.innerWidth).map(e => e.outerHTML.slice(0, 80))
    return { width: window.innerWidth, content: page.documentElement.scrollWidth, wide, words, small, points }
  })
  document.body.dataset.told = JSON.stringify(told)
})
"""


@pytest.mark.skipif(BROWSER is None, reason="needs a browser: Chromium or Chrome")
def test_two_widths(tmp_path: Path) -> None:
    from PIL import Image

    for name, (macs, figure) in NETWORKS.items():
        write_summary(tmp_path, name.split("-")[2], macs, figure, name)
    page = write_report(tmp_path).read_text()
    frames = [f'<iframe width="{width}" height="{HEIGHT}" srcdoc="{html.escape(page)}"></iframe>' for width in WIDTHS]
    style = "body { margin: 0; display: flex } iframe { border: 0; flex: none }"
    both = f"<!doctype html><style>{style}</style><script>{MEASURE}</script><body>{''.join(frames)}"
    (tmp_path / "both.html").write_text(both)
    dom = subprocess.run(
        [
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom"),
            *(f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'both.png'}"),
            *(f"--window-size={sum(WIDTHS)},{HEIGHT}", (tmp_path / "both.html").as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    told = re.search(r'data-told="([^"]*)"', dom)
    assert told is not None, dom[-2000:]
    measured: list[dict[str, Any]] = json.loads(html.unescape(told[1]))
    for width, one in zip(WIDTHS, measured, strict=True):
        assert one["width"] == width
        assert one["content"] <= width, f"{width} pixels: the page scrolls sideways"
        assert not one["wide"]
        assert not one["words"], "words of the picture leave it"
        assert not one["small"], "words of the picture cannot be read"
        texts = {point["text"] for point in one["points"]}
        assert len(one["points"]) == len(texts) == len(NETWORKS)
        assert "pit 1, random seed 0: 12,501,632 MACs, 0.1 accuracy, test" in texts
        assert all(point["shown"] in texts for point in one["points"]), "hover tells of a network at every point"
        assert sum(point["shown"] == point["text"] for point in one["points"]) >= len(NETWORKS) - 1, (
            "one lies on another"
        )
        assert {point["link"] for point in one["points"]} >= {"ic-digits-pit-macs-strength2-seed0/"}
    with Image.open(tmp_path / "both.png") as picture:
        assert picture.size == (sum(WIDTHS), HEIGHT)
        for start, width in zip((0, WIDTHS[0]), WIDTHS, strict=True):
            part = picture.convert("RGB").crop((start, 0, start + width, HEIGHT))
            colours = {colour for _, colour in part.getcolors(part.width * part.height) or []}
            assert BLUE in colours, "points are drawn"
