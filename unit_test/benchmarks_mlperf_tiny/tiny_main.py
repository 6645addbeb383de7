"""`python tiny_main.py COMMAND ...`: the command line of the benchmarks, with the tiny task added."""

from __future__ import annotations

import sys

import tiny

from benchmarks_mlperf_tiny import commands
from benchmarks_mlperf_tiny.cli import main
from benchmarks_mlperf_tiny.runner import LocalRunner
from benchmarks_mlperf_tiny.tasks import TASKS


def tiny_runner(jobs: int, threads: int) -> LocalRunner:
    """Starts jobs through this file, so that they know the task too."""
    return LocalRunner(jobs, threads, [sys.executable, __file__, "job"])


if __name__ == "__main__":
    TASKS["tiny"] = tiny.TASK
    commands.LocalRunner = tiny_runner  # type: ignore[assignment, misc]
    sys.exit(main())
