"""`python -m benchmarks_mlperf_tiny`."""

from __future__ import annotations

import sys

from benchmarks_mlperf_tiny.cli import main

if __name__ == "__main__":
    sys.exit(main())
