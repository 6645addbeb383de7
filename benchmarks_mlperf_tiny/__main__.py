"""`python -m benchmarks_mlperf_tiny`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    try:
        from benchmarks_mlperf_tiny.cli import main

        sys.exit(main())
    except KeyboardInterrupt:  # while modules are still being imported
        sys.exit(130)
