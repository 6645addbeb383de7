"""`python -m benchmarks_mlperf_tiny`."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, jobs included
    try:
        from benchmarks_mlperf_tiny.cli import main

        sys.exit(main())
    except KeyboardInterrupt:  # while modules are still being imported
        sys.exit(130)
