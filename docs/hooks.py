"""Pages of the site that lie beside the code: cards, changelog and guides, copied with links that fit their place."""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {
    "nasopt/methods/pit.md": "cards/pit.md",
    "nasopt/methods/supernet.md": "cards/supernet.md",
    "nasopt/methods/precision.md": "cards/precision.md",
    "nasopt/methods/nasb/README.md": "cards/nasb.md",
    "nasopt/cost/README.md": "cards/cost.md",
    "nasopt/export/README.md": "cards/export.md",
    "nasopt/nn/README.md": "cards/nn.md",
    "nasopt/train/README.md": "cards/low_bit.md",
    "benchmarks_mlperf_tiny/README.md": "cards/benchmarks.md",
    "CONTRIBUTING.md": "cards/contributing.md",
    "CHANGELOG.md": "cards/changelog.md",
    "SECURITY.md": "cards/security.md",
}
PACKAGES = [
    f"nasopt{part}"
    for part in ("", ".cost", ".export", ".nn", ".train", ".datafree", ".distributed", ".methods.nasb", ".zoo")
]
# Modules of their own below, and what stands elsewhere already.
LEFT_OUT = {"nasopt": ("export", "schedule", "zoo"), "nasopt.methods.nasb": ("NASB",)}
MODULES = {"nasopt.schedule": "nasopt.search.schedule"} | {
    f"nasopt.{name}": f"nasopt.{name}" for name in ("pareto", "track", "lightning", "testing", "errors")
}
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    for source, page in PAGES.items():
        text = LINK.sub(
            lambda link, source=source: f"{link[1]}({moved(link[2], source, config.repo_url)})", read(source)
        )
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "api.md", content=reference()))
    return files


def reference() -> str:
    """The page of every public name: what `__all__` of each package lists, and some modules as a whole."""
    lines = ["# API reference", "Every public name, from the docstrings."]
    for package in PACKAGES:
        body = ast.parse(read(f"{package.replace('.', '/')}/__init__.py")).body
        names = next(ast.literal_eval(n.value) for n in body if isinstance(n, ast.Assign) and _is_all(n.targets[0]))
        lines += [
            f"## {package}",
            *(f"::: {package}.{name}" for name in names if name not in LEFT_OUT.get(package, ())),
        ]
    for name, module in MODULES.items():
        lines += [f"## {name}", f"::: {module}\n    options:\n      show_root_heading: false"]
    return "\n\n".join(lines)


def _is_all(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and target.id == "__all__"


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
