"""Scale test of sweeps: what thousands of jobs cost the process that leads them. Real runners and files; jobs that do nothing.

    python benchmarks/sweep_scale.py                              # 2,000 jobs on a local Ray cluster
    python benchmarks/sweep_scale.py --jobs 500 2000 8000 --runner none
    python benchmarks/sweep_scale.py --machines 4 --lose 2 --seconds 0.5 --jobs 200  # simulated machines, two of them lost

Every job waits `--seconds`, writes a summary as a search does and ends. `none` executes the jobs in this process: what is
left is the sweep's own bookkeeping. `--machines` starts so many Ray nodes with `--cpus` CPUs each on this machine, whose
processes are real. Seconds are wall time of the whole sweep, `again` those of the same command when all is finished; memory
is the growth of the leading process's largest resident set; `repeated` counts the executions that a loss has cost.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import math
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from benchmarks_mlperf_tiny.ray_runner import STORE, RayRunner
from benchmarks_mlperf_tiny.runner import Outcome, Runner
from benchmarks_mlperf_tiny.sweep import Sweep
from benchmarks_mlperf_tiny.tasks import TASKS
from nasopt.seal import sealed

LAYERS = {f"block{index}.conv": {"inputs": 16, "outputs": 16, "kernel": [3, 3]} for index in range(20)}


def no_search(folder: Path, _threads: int, seconds: float) -> None:
    """Leave a summary, large as that of a search."""
    with open(folder / "executions", "a") as file:
        file.write(".")
    time.sleep(seconds)
    config = json.loads((folder / "job.json").read_text())["config"]
    costs = {"params": 1, "size": 1, "macs": 1, "memory": 1, "val": 0.5, "test": 0.5, "seconds": 0.0}
    summary = {"config": config, "figure": "accuracy", "synthetic": True, "found": {**costs, "layers": LAYERS}}
    draft = folder / "summary.tmp"
    draft.write_text(json.dumps(sealed(summary)))
    draft.rename(folder / "summary.json")


class NoRunner:
    """Executes jobs here and now."""

    def __init__(self, job: Callable[[Path, int], None]) -> None:
        self.job = job

    def run(self, folders: Iterable[Path]) -> Iterator[Outcome]:
        """See `Runner`."""
        for folder in folders:
            self.job(folder, 1)
            yield Outcome(folder, 0, "")


@contextlib.contextmanager
def ray_cluster(machines: int, cpus: int, lose: int) -> Iterator[None]:
    """Simulated machines; those to lose end one after the other, two seconds apart, from the fifth second on."""
    import ray
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": cpus, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args=machine)
    others = [cluster.add_node(**machine) for _ in range(machines - 1)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)

    def lose_machines() -> None:
        time.sleep(5)
        for node in others[:lose]:
            print("  a machine is lost", flush=True)
            cluster.remove_node(node, allow_graceful=False)
            time.sleep(2)

    loser = threading.Thread(target=lose_machines)
    loser.start()
    try:
        yield
    finally:
        loser.join()
        ray.shutdown()
        cluster.shutdown()


def sweep(folder: Path, jobs: int, runner: Runner) -> list[dict[str, Any]]:
    """So many networks, ten seeds of each strength; the plain seeds are among them."""
    strengths = [0.1 * 1.001**index for index in range(math.ceil(jobs / 10) - 1)]
    return Sweep(folder, TASKS["ic"], None, ["pit"], range(10), runner, quiet=True).grid(strengths)


def main() -> None:
    """Measure and print one line for each number of jobs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[2000])
    parser.add_argument("--runner", choices=("ray", "none"), default="ray")
    parser.add_argument("--machines", type=int, default=1, help="simulated")
    parser.add_argument("--cpus", type=int, default=4, help="of each simulated machine")
    parser.add_argument("--lose", type=int, default=0, help="simulated machines to lose on the way")
    parser.add_argument("--seconds", type=float, default=0.0, help="that each job lasts")
    args = parser.parse_args()
    job = functools.partial(no_search, seconds=args.seconds)
    here = contextlib.nullcontext() if args.runner == "none" else ray_cluster(args.machines, args.cpus, args.lose)
    with here:
        runner = NoRunner(job) if args.runner == "none" else RayRunner(job=job)
        for jobs in args.jobs:
            with tempfile.TemporaryDirectory() as folder:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                started, computed = time.monotonic(), time.process_time()
                rows = sweep(Path(folder), jobs, runner)
                seconds, computed = time.monotonic() - started, time.process_time() - computed
                names = {(row["strength"], row["seed"]) for row in rows if row["status"] == "done"}
                assert len(names) == len(rows) == math.ceil(jobs / 10) * 10, f"{len(names)} of {jobs} jobs are done"
                executions = sum(path.stat().st_size for path in Path(folder).glob("jobs/*/executions"))
                ended = time.monotonic()
                sweep(Path(folder), jobs, runner)
                again = time.monotonic() - ended
                memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            print(
                f"{len(rows)} jobs: {seconds:.1f} s, {1000 * seconds / len(rows):.1f} ms each, of which the leading "
                f"process computes {1000 * computed / len(rows):.1f} ms; again {again:.1f} s; "
                f"{memory:.0f} MiB; {executions - len(rows)} repeated",
                flush=True,
            )


if __name__ == "__main__":
    main()
