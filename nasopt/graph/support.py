"""The support matrix: which layers nasopt knows, printed from the table of rules itself.

python -m nasopt.graph.support
"""

from __future__ import annotations

import nasopt.graph.rules  # noqa: F401  (fills the table)
from nasopt.graph.registry import layer_table

# The matrix speaks of torch's own layers; what a user taught is the user's to document.
_HOME = "torch.nn"


def support_matrix() -> str:
    """A Markdown table: what can be searched, and in which layers."""
    rows: dict[str, list[str]] = {}
    for entry in layer_table():
        if entry.layer is not None and entry.layer.__module__.startswith(_HOME):
            rows.setdefault(entry.searchable, []).append(entry.layer.__name__)
    lines = ["| what is searched or happens | layers |", "| --- | --- |"]
    lines += [f"| {searchable} | {', '.join(_folded(names))} |" for searchable, names in rows.items()]
    return "\n".join(lines)


def _folded(names: list[str]) -> list[str]:
    """`Conv1d, Conv2d, Conv3d` become `Conv1d/2d/3d`."""
    folded: dict[str, list[str]] = {}
    for name in names:
        if name[-1:] == "d" and name[-2:-1].isdigit() and name[:-2] not in names:
            folded.setdefault(name[:-2], []).append(name[-2:])
        else:
            folded.setdefault(name, [])
    return [stem + "/".join(sizes) for stem, sizes in folded.items()]


if __name__ == "__main__":
    print(support_matrix())
