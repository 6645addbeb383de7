"""Execution of a job on a worker of a Ray cluster.

This module imports nothing that takes time: a worker that only hears that a job is finished needs no torch.
"""

from __future__ import annotations

import contextlib
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path


def search_job(folder: Path, threads: int) -> None:
    """The search of a job; torch is imported on the worker only."""
    import torch

    from benchmarks_mlperf_tiny.jobs import run_job

    torch.set_num_threads(threads)
    run_job(folder)


def execute(job: Callable[[Path, int], None], path: str, threads: int, environment: dict[str, str]) -> tuple[int, str]:
    """On a worker: execute a job with its output in `log.txt`; returns exit code and message of its `Outcome`."""
    folder = Path(path)
    if not (folder / "job.json").exists():
        return 1, (
            f"machine {socket.gethostname()} does not see {folder}: "
            f"--out must lie in a file system that all machines share, under the same path"
        )
    os.environ.update(environment)
    with open(folder / "log.txt", "w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            job(folder, threads)
        except Exception as error:
            from benchmarks_mlperf_tiny.errors import BenchmarkError

            traceback.print_exc()
            return 1, str(error) if isinstance(error, BenchmarkError) else last_line(error)
    return 0, ""


def last_line(error: BaseException) -> str:
    """`Type: message`, or the last line of a longer one."""
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
