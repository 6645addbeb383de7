"""Runner on a Ray cluster of many machines; a job whose worker is lost is executed again."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import sys
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.ray_worker import execute, last_line, search_job
from benchmarks_mlperf_tiny.runner import Outcome, drive
from nasopt.extras import import_extra

RETRIES = 3  # of a job whose worker was lost: each goes on from its checkpoint
LOOK_AGAIN = 30.0  # seconds between two looks at how many machines there are
STARTS = 3  # of a local cluster that took too long
STORE = 100 * 2**20  # bytes for Ray's object store: jobs leave their results in files
PASSED_ON = ("NASOPT_DATA", "NASOPT_CACHE")  # folders that jobs need as the sweep has them
CURE = (
    "Start a cluster with `ray start --head --port=6379`, join it from each other machine with "
    "`ray start --address=HOST:6379`, and set RAY_ADDRESS=HOST:6379; leave RAY_ADDRESS unset for a cluster on this "
    "machine alone; or take --backend local"
)


class RayRunner:
    """Tasks of a Ray cluster: the one that this process is connected to, else that at `RAY_ADDRESS`, else a local one.

    All machines must see the sweep's folder, and the data, under the same path, and have the same version of this
    package installed.

    Args:
        jobs: how many run at a time, at most; None: as many as the cluster has room for.
        threads: of torch in each.
        num_cpus, num_gpus: what Ray reserves for each job; a GPU may be shared (0.5).
        job: what to execute for a job's folder; default: its search.

    Raises:
        MissingExtraError: Ray is not installed.
        BenchmarkError: nobody answers at `RAY_ADDRESS`, or no job can have these resources.
    """

    def __init__(
        self,
        jobs: int | None = None,
        threads: int = 1,
        num_cpus: float | None = None,
        num_gpus: float = 0.0,
        job: Callable[[Path, int], None] | None = None,
    ) -> None:
        self.address = os.environ.get("RAY_ADDRESS") or "local"
        if self.address != "local":  # where something else listens at that port, Ray would try for many minutes
            os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")
        self.ray = import_extra("ray", "ray", "--backend ray")
        self.jobs, self.threads, self.job = jobs, threads, job or search_job
        self.num_cpus, self.num_gpus = float(threads if num_cpus is None else num_cpus), float(num_gpus)
        for name, value, least in (
            ("num-cpus", self.num_cpus, "more than 0"),
            ("num-gpus", self.num_gpus, "0 or more"),
        ):
            if not math.isfinite(value) or value < 0 or (value == 0 and name == "num-cpus"):
                raise BenchmarkError(f"--{name} {value:g}: a job needs {least}")
        if not self.ray.is_initialized():
            check_reachable(self.address)

    def run(self, folders: Iterable[Path]) -> Iterator[Outcome]:
        """See `Runner`; jobs whose worker is lost are executed again."""
        references: dict[Future[tuple[int, str]], Any] = {}
        with self.connection():
            task = self.ray.remote(execute).options(
                num_cpus=self.num_cpus, num_gpus=self.num_gpus, max_retries=RETRIES, retry_exceptions=False
            )
            environment = {name: os.path.abspath(os.environ[name]) for name in PASSED_ON if os.environ.get(name)}

            def submit(folder: Path) -> Future[tuple[int, str]]:
                reference = task.remote(self.job, str(folder.resolve()), self.threads, environment)
                future: Future[tuple[int, str]] = reference.future()
                references[future] = reference
                return future

            try:
                for folder, future in drive(folders, lambda: self.jobs or max(self.places(), 1), submit, LOOK_AGAIN):
                    del references[future]
                    yield self.outcome(folder, future)
            finally:
                for reference in references.values():
                    self.ray.cancel(reference, force=True)

    @contextlib.contextmanager
    def connection(self) -> Iterator[None]:
        """Be connected to a cluster; one that was started here ends with the block.

        Raises:
            BenchmarkError: there is none, or it has no place for a job.
        """
        if self.ray.is_initialized():
            yield
            return
        local = self.address == "local"
        options: dict[str, Any] = {}
        if local:
            options = {"include_dashboard": False, "object_store_memory": STORE}
            if self.jobs is not None:
                options["num_cpus"] = math.ceil(self.jobs * self.num_cpus)
        self.start(options, tries=STARTS if local else 1)
        try:
            if self.places() == 0:
                lack = f"no machine of the Ray cluster has {self.num_cpus:g} CPU and {self.num_gpus:g} GPU for a job"
                if local:
                    raise BenchmarkError(
                        f"{lack}: give smaller --num-cpus or --num-gpus, or join other machines. {CURE}"
                    )
                print(f"{lack}: waiting until one joins", file=sys.stderr)
            yield
        finally:
            self.ray.shutdown()

    def start(self, options: dict[str, Any], tries: int) -> None:
        """Connect to the cluster, or start one; Ray gives its processes 30 s, of which a busy machine may need more.

        Raises:
            BenchmarkError: it does not work.
        """
        try:
            self.ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except Exception as error:  # Ray has no common type for them
            if tries > 1 and "timed out during startup" in str(error):
                self.ray.shutdown()
                return self.start(options, tries - 1)
            place = "on this machine" if self.address == "local" else f"at RAY_ADDRESS={self.address}"
            raise BenchmarkError(f"no Ray cluster can be used {place} ({last_line(error)}). {CURE}") from error

    def places(self) -> int:
        """How many jobs the machines of the cluster can execute at a time."""
        demand = {name: value for name, value in (("CPU", self.num_cpus), ("GPU", self.num_gpus)) if value}
        machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return sum(min(int(machine.get(name, 0) / value) for name, value in demand.items()) for machine in machines)

    def outcome(self, folder: Path, future: Future[tuple[int, str]]) -> Outcome:
        """How a job ended, and be it by the loss of its last worker."""
        try:
            return Outcome(folder, *future.result())
        except self.ray.exceptions.RayTaskError as error:
            return Outcome(folder, 1, f"{last_line(error)}; is this version of the package installed on every machine?")
        except self.ray.exceptions.RayError as error:
            lost = f"the worker was lost {RETRIES + 1} times ({type(error).__name__}: {last_line(error)})"
            return Outcome(folder, 1, f"{lost}; out of memory?")


def check_reachable(address: str) -> None:
    """Ask at `host:port` or `ray://host:port` whether anybody listens; Ray itself would wait for minutes.

    Raises:
        BenchmarkError: nobody does, or that is no address.
    """
    if address in ("local", "auto"):
        return
    try:
        parts = urllib.parse.urlsplit(address if "://" in address else f"gcs://{address}")
        if not parts.hostname or not parts.port:
            raise ValueError("it is not HOST:PORT")
        socket.create_connection((parts.hostname, parts.port), timeout=5).close()
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"no Ray cluster answers at RAY_ADDRESS={address} ({error}). {CURE}") from error
