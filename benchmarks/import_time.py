"""Time of `import nasopt`, after torch is there: the smallest and the median of several fresh processes, and what takes most.

    python benchmarks/import_time.py
    python benchmarks/import_time.py --repeat 20 --modules 30

Times are those of the process (user and system). The first run writes compiled bytecode and is left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

_TIMED = "import torch, time; t = time.process_time(); import nasopt; print(time.process_time() - t)"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python that may keep bytecode."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, env=environment)


def slowest(count: int) -> list[tuple[float, str]]:
    """`(own time [ms], module)` of what nasopt imports and torch does not, slowest first."""
    lines = run("-X", "importtime", "-c", "import torch, nasopt").stderr.splitlines()
    rows = [line.removeprefix("import time:").split("|") for line in lines if line.count("|") == 2]
    after = next(i for i, row in enumerate(rows) if row[2].rstrip() == " torch")
    return sorted(((int(own) / 1000, name.strip()) for own, _, name in rows[after + 1 :]), reverse=True)[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9, help="fresh processes (default: %(default)s)")
    parser.add_argument("--modules", type=int, default=10, help="modules listed (default: %(default)s)")
    given = parser.parse_args()
    run("-c", _TIMED)
    times = [float(run("-c", _TIMED).stdout) for _ in range(given.repeat)]
    print(f"import nasopt after torch: smallest {min(times):.3f} s, median {statistics.median(times):.3f} s")
    for own, name in slowest(given.modules):
        print(f"{own:8.1f} ms  {name}")


if __name__ == "__main__":
    main()
