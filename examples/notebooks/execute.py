"""Execute the notebooks of this folder, one after the other, and say how long each took: `python execute.py [NAME ...]`.

Needs nbclient and ipykernel (`make notebooks` brings them). What is executed is thrown away; a cell that fails fails the script.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
LONGEST = 120.0  # seconds, on two cores


def main() -> int:
    """Exit code: 0, or 1 where a notebook takes too long."""
    late = False
    for path in sorted(HERE.glob("*.ipynb")):
        if len(sys.argv) > 1 and path.stem not in sys.argv[1:]:
            continue
        start = time.monotonic()
        NotebookClient(nbformat.read(path, 4), timeout=600, resources={"metadata": {"path": str(HERE)}}).execute()
        seconds = time.monotonic() - start
        late |= seconds > LONGEST
        print(f"{path.name}: {seconds:.0f} s", flush=True)
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
