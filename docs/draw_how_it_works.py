"""The picture of "How it works": `python docs/draw_how_it_works.py` writes docs/pictures/how_it_works.svg."""

from __future__ import annotations

import html
from pathlib import Path

STEPS = [
    ("seed", ["your model,", "unmodified"], "#d0d7de"),
    ("search model", ["masks on channels", "and kernel taps;", "choices of branches"], "#ddf4ff"),
    ("found network", ["plain torch layers,", "trained weights"], "#dafbe1"),
    ("file", ["ONNX, LiteRT,", "ExecuTorch; run in", "its runtime"], "#fff8c5"),
]
ARROWS = ["wrap: checked", "take: verified", "export: compared"]


def main() -> None:
    """Boxes from left to right, and what stands between them."""
    parts = []
    for i, (title, lines, colour) in enumerate(STEPS):
        x = 10 + 200 * i
        parts.append(f'<rect x="{x}" y="40" width="130" height="96" rx="6" fill="{colour}" stroke="#57606a"/>')
        parts.append(f'<text x="{x + 65}" y="62" font-weight="bold" text-anchor="middle">{html.escape(title)}</text>')
        for row, line in enumerate(lines):
            parts.append(f'<text x="{x + 65}" y="{84 + 18 * row}" text-anchor="middle">{html.escape(line)}</text>')
        if i < len(ARROWS):
            verb, _, promise = ARROWS[i].partition(": ")
            parts.append(f'<path d="M{x + 134} 88H{x + 190}l-8 -4v8l8 -4" fill="none" stroke="#1f2328"/>')
            parts.append(f'<text x="{x + 165}" y="80" text-anchor="middle">{verb}</text>')
            parts.append(f'<text x="{x + 165}" y="106" text-anchor="middle" fill="#57606a">{promise}</text>')
    parts.append('<path d="M275 140v24" stroke="#1f2328"/>')
    parts.append('<text x="275" y="182" text-anchor="middle">price: loss + strength * E[cost]</text>')
    style = 'font-family="system-ui,sans-serif" font-size="13" fill="#1f2328"'
    size = 'width="760" height="195" viewBox="0 0 760 195"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(parts)}</svg>\n'
    (Path(__file__).parent / "pictures" / "how_it_works.svg").write_text(svg)


if __name__ == "__main__":
    main()
