"""`python tiny_main.py COMMAND ...`: the command line of the benchmarks, with the tiny task added."""

from __future__ import annotations

import signal
import sys


def run() -> int:
    """As `benchmarks_mlperf_tiny.__main__`."""
    import tiny

    from benchmarks_mlperf_tiny import commands
    from benchmarks_mlperf_tiny.cli import main
    from benchmarks_mlperf_tiny.runner import LocalRunner
    from benchmarks_mlperf_tiny.tasks import TASKS

    def tiny_runner(jobs: int, threads: int) -> LocalRunner:
        """Starts jobs through this file, so that they know the task too."""
        return LocalRunner(jobs, threads, [sys.executable, __file__, "job"])

    TASKS["tiny"] = tiny.TASK
    commands.LocalRunner = tiny_runner  # type: ignore[assignment, misc]
    return main()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(run())
    except KeyboardInterrupt:  # while modules are still being imported
        sys.exit(130)
