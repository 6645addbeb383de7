"""Runners execute the jobs of a sweep: their interface, the loop that all share, and processes on this machine."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

COMMAND = (sys.executable, "-m", "benchmarks_mlperf_tiny", "job")


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        folder: of the job; what it found lies there.
        code: exit code, 0 for success.
        message: last line that it wrote to stderr, empty for success.
    """

    folder: Path
    code: int
    message: str


class Runner(Protocol):
    """Executes jobs. A job is a folder with a `job.json`; executing it twice is harmless, as is killing it."""

    def run(self, folders: Iterable[Path]) -> Iterator[Outcome]:
        """Execute all jobs, in any order, and tell of each as it ends.

        A job is drawn from `folders` when there is room for it, not earlier: what others have found may decide it. When the
        generator is closed or interrupted, running jobs are stopped; they can be executed again later.
        """
        ...


def drive(
    folders: Iterable[Path],
    room: Callable[[], int],
    submit: Callable[[Path], Future[Any]],
    look_again: float | None = None,
) -> Iterator[tuple[Path, Future[Any]]]:
    """Submit jobs in the given order while there is room, and yield each with its future as it ends.

    Args:
        folders: drawn one by one.
        room: how many may run at a time, asked before jobs are drawn.
        submit: starts a job.
        look_again: seconds after which `room` is asked again though no job has ended.
    """
    waiting = iter(folders)
    running: dict[Future[Any], Path] = {}
    while True:
        for folder in itertools.islice(waiting, max(room() - len(running), 0)):
            running[submit(folder)] = folder
        if not running:
            return
        ended, _ = concurrent.futures.wait(running, look_again, concurrent.futures.FIRST_COMPLETED)
        for future in ended:
            yield running.pop(future), future


class LocalRunner:
    """Processes on this machine.

    Args:
        jobs: how many run at a time.
        threads: of torch in each.
        command: what to start; the job's folder and `--threads` are appended.
    """

    def __init__(self, jobs: int, threads: int, command: Sequence[str] = COMMAND) -> None:
        self.jobs, self.threads, self.command = jobs, threads, tuple(command)

    def run(self, folders: Iterable[Path]) -> Iterator[Outcome]:
        """See `Runner`."""
        running: dict[Path, subprocess.Popen[bytes]] = {}
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:  # its threads wait for the processes

            def submit(folder: Path) -> Future[int]:
                running[folder] = self.start(folder)
                return pool.submit(running[folder].wait)

            try:
                for folder, future in drive(folders, lambda: self.jobs, submit):
                    del running[folder]
                    yield Outcome(folder, future.result(), last_words(folder, future.result()))
            finally:
                for process in running.values():
                    process.terminate()  # not SIGINT, which a process in the background of a script ignores
                for process in running.values():
                    try:
                        process.wait(timeout=5)
                    except subprocess.TimeoutExpired:
                        process.kill()

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        """Start one job with its output in `log.txt`."""
        command = [*self.command, str(folder), "--threads", str(self.threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        with open(folder / "log.txt", "wb") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
            )


def last_words(folder: Path, code: int) -> str:
    """Why a job failed: the last line of its log."""
    if code == 0:
        return ""
    if code < 0:
        return f"killed by signal {-code} ({signal.Signals(-code).name}); out of memory?"
    lines = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"exit code {code}"
