"""Pages of the site that lie beside the code: cards, changelog and guides, copied with links that fit their place."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {
    "nasopt/methods/pit.md": "cards/pit.md",
    "nasopt/methods/supernet.md": "cards/supernet.md",
    "nasopt/methods/nasb/README.md": "cards/nasb.md",
    "nasopt/cost/README.md": "cards/cost.md",
    "nasopt/export/README.md": "cards/export.md",
    "nasopt/nn/README.md": "cards/nn.md",
    "benchmarks_mlperf_tiny/README.md": "cards/benchmarks.md",
    "CONTRIBUTING.md": "cards/contributing.md",
    "CHANGELOG.md": "cards/changelog.md",
    "SECURITY.md": "cards/security.md",
}
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    for source, page in PAGES.items():
        text = LINK.sub(
            lambda link, source=source: f"{link[1]}({moved(link[2], source, config.repo_url)})", read(source)
        )
        files.append(File.generated(config, page, content=text))
    return files


def read(source: str) -> str:
    """The text of a page."""
    return (ROOT / source).read_text(encoding="utf-8")


def moved(target: str, source: str, repository: str) -> str:
    """A link of a page as it is in the folder `cards`: to another page, or to the repository.

    Raises:
        FileNotFoundError: it leads to nothing.
    """
    path, _, place = target.partition("#")
    if not path or "://" in path or path.startswith("mailto:"):
        return target
    found = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    page = PAGES.get(found) or PAGES.get(f"{found}/README.md")
    if page is not None:
        return posixpath.basename(page) + (f"#{place}" if place else "")
    if not (ROOT / found).exists():
        raise FileNotFoundError(f"{source} links to {target}, which does not exist")
    return f"{repository}/{'raw' if found.endswith('.png') else 'blob'}/main/{found}" + (f"#{place}" if place else "")
