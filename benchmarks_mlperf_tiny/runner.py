"""Who executes the jobs of a sweep? An interface, and its implementation by processes on this machine."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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

        A job is drawn from `folders` when there is room for it, not earlier: what others have found may decide it.
        """
        ...


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
        """Execute all jobs, at most `jobs` at a time, started in the given order.

        When the generator is closed or interrupted, running jobs are stopped; they can be executed again later.
        """
        waiting = iter(folders)
        running: dict[Path, subprocess.Popen[bytes]] = {}
        try:
            while True:
                for folder in itertools.islice(waiting, self.jobs - len(running)):
                    running[folder] = self.start(folder)
                if not running:
                    return
                time.sleep(0.05)
                for folder, process in list(running.items()):
                    if process.poll() is not None:
                        del running[folder]
                        yield Outcome(folder, process.returncode, last_words(folder, process.returncode))
        finally:
            for process in running.values():
                process.terminate()  # not SIGINT, which a process in the background of a script ignores
            for process in running.values():
                try:
                    process.wait(timeout=5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        """Start one job with its output in `log.txt`."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        with open(folder / "log.txt", "wb") as log:
            return subprocess.Popen(
                [*self.command, str(folder), "--threads", str(self.threads)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )


def last_words(folder: Path, code: int) -> str:
    """Why a job failed: the last line of its log."""
    if code == 0:
        return ""
    if code < 0:
        return f"killed by signal {-code} ({signal.Signals(-code).name}); out of memory?"
    lines = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"exit code {code}"
