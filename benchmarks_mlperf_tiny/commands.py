"""Commands of `python -m benchmarks_mlperf_tiny`, from arguments to files."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from benchmarks_mlperf_tiny import processes
from benchmarks_mlperf_tiny.config import make_config
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.evaluate import evaluate_keywords
from benchmarks_mlperf_tiny.files import remove_checkpoint
from benchmarks_mlperf_tiny.jobs import run_job
from benchmarks_mlperf_tiny.limits import Goal, budget_series, parse_range, parse_seeds, parse_strengths
from benchmarks_mlperf_tiny.lock import locked
from benchmarks_mlperf_tiny.methods import default_cost
from benchmarks_mlperf_tiny.ray_runner import RayRunner
from benchmarks_mlperf_tiny.report import write_report
from benchmarks_mlperf_tiny.runner import LocalRunner, Runner
from benchmarks_mlperf_tiny.search import Run
from benchmarks_mlperf_tiny.summary import run_name, save_result, summarise, text_table
from benchmarks_mlperf_tiny.sweep import Sweep
from benchmarks_mlperf_tiny.tasks import get_task
from benchmarks_mlperf_tiny.training import CurveWriter

SETTINGS = (
    "strength",
    "budget",
    "relative",
    "regularizer",
    "candidates",
    "precision",
    "seed",
    "warmup",
    "search",
    "finetune",
    "batch_size",
    "lr",
    "arch_lr",
    "patience",
    "device",
    "amp",
    "compile",
)
TRIAL_OPTIONS = ("trials", "cost", "max_cost", "min_figure")


def search(args: argparse.Namespace) -> None:
    """Train the seed for comparison, search, print both side by side, write the results.

    Raises:
        BenchmarkError: anything that cannot be served; the message says what to do.
    """
    task = get_task(args.task)
    changes = {key: getattr(args, key) for key in SETTINGS}
    config = make_config(task, args.data, args.method, **changes)
    folder = args.out / run_name(config)
    first = processes.is_first()
    with locked(folder) if first else contextlib.nullcontext():
        data = task.dataset(config.data).load(DataOptions(args.data_dir))
        checkpoints = {name: folder / f"{name}_checkpoint.pt" for name in ("seed", "found")}
        for path in checkpoints.values() if first else ():
            if args.fresh:
                remove_checkpoint(path)
            elif path.exists():
                print(f"going on from {path}")
        every = args.checkpoint_every
        curves = CurveWriter(folder / "curves") if args.tensorboard and first else None
        search_run = Run(config, task, data, checkpoints["found"], every, args.quiet, curves)
        search_run.start()  # what cannot be searched is said before the seed is trained
        seed_result = None
        if config.method != "seed" and not args.no_baseline:
            seed_config = make_config(task, args.data, "seed", **changes)
            seed_result = Run(seed_config, task, data, checkpoints["seed"], every, args.quiet).run()
        found = search_run.run()
        if not first:
            return
        seed = seed_result.network if seed_result else task.seed(data.num_classes)
        summary = summarise(config, task, seed.cpu(), seed_result, found, data.synthetic)
        save_result(folder, summary, found)
        for path in checkpoints.values():  # what is finished need not be resumed
            remove_checkpoint(path)
    epochs = config.warmup + config.search + config.finetune
    print(text_table(summary))
    if seed_result:
        print(
            f"Seed and found network: the same recipe, {epochs} epochs each, best epoch of the last {config.finetune}."
        )
    print(f"Results: {folder}")


def make_runner(args: argparse.Namespace) -> Runner:
    """What executes the jobs of a sweep.

    Raises:
        BenchmarkError: unknown, unreachable, or with options that it does not have.
    """
    if args.jobs is not None and args.jobs < 1:
        raise BenchmarkError(f"--jobs {args.jobs}: at least one must run at a time")
    threads = args.threads or 1
    if args.backend == "ray":
        check_gpus(args.device or "cpu", args.num_gpus or 0)
        return RayRunner(args.jobs, threads, args.num_cpus, args.num_gpus or 0)
    if args.backend != "local":
        hint = "; for a search of strengths give --sampler optuna" if args.backend == "optuna" else ""
        raise BenchmarkError(f"unknown backend {args.backend!r}: a backend executes the jobs, local or ray{hint}")
    for option in ("num_cpus", "num_gpus"):
        if getattr(args, option) is not None:
            raise BenchmarkError(f"--{option.replace('_', '-')}: resources are for --backend ray; give --jobs here")
    jobs = args.jobs or 1
    return LocalRunner(jobs, threads, args.command_line) if args.command_line else LocalRunner(jobs, threads)


def check_gpus(device: str, num_gpus: float) -> None:
    """Ray hides GPUs from a job that did not ask for them, and others must wait for those that stand idle.

    Raises:
        BenchmarkError: device and GPUs contradict each other.
    """
    wanted = not device.startswith("cpu")
    if wanted and num_gpus == 0:
        raise BenchmarkError(
            f"--device {device}, but no GPU is asked for: add --num-gpus 1, or 0.5 for two jobs on each"
        )
    if num_gpus > 0 and not wanted:
        raise BenchmarkError(f"--num-gpus {num_gpus:g}, but the searches run on the CPU: add --device cuda")


def sweep(args: argparse.Namespace) -> None:
    """Search with many strengths; one row per network in `networks.csv`.

    Raises:
        BenchmarkError: anything that cannot be served; the message says what to do. A search that failed is told last.
    """
    if args.budget and args.strengths:
        raise BenchmarkError("--budget and --strengths: limits take the place of strengths, give one of them")
    task, methods, seeds = get_task(args.task), args.method.split(","), parse_seeds(args.seeds)

    def make_sweep() -> Sweep:
        settings = {key: getattr(args, key) for key in SETTINGS if key not in ("strength", "budget", "seed")}
        options = {"data_dir": args.data_dir, "quiet": args.quiet, "fresh": args.fresh}
        return Sweep(args.out, task, args.data, methods, seeds, make_runner(args), settings, **options)

    if args.sampler == "grid":
        for option in TRIAL_OPTIONS:
            if getattr(args, option) is not None:
                name = f"--{option.replace('_', '-')}"
                raise BenchmarkError(
                    f"{name} is for strengths that Optuna proposes: add --sampler optuna, or leave it out"
                )
        strengths = [] if args.budget else parse_strengths(args.strengths or "0.1:10:5")
        budgets = [one for text in args.budget or () for one in budget_series(text)]
        rows = make_sweep().grid(strengths, budgets, fill=not args.no_fill)
    elif args.sampler == "optuna":
        if args.budget:
            raise BenchmarkError(
                "--budget: Optuna proposes strengths; give the limit as --max-cost, or leave out --sampler"
            )
        bounds = parse_range(args.strengths or "0.1:10")
        trials = 20 if args.trials is None else args.trials
        cost = args.cost or args.regularizer or default_cost(methods[0], args.precision)
        goal = Goal(cost, args.max_cost, args.min_figure)
        rows, front = make_sweep().trade_off(bounds, trials, goal)
        print_front(front, goal)
    else:
        raise BenchmarkError(f"unknown sampler {args.sampler!r}: known are grid and optuna")
    failed = [row for row in rows if row["status"] == "failed"]
    print(f"{len(rows) - len(failed)} networks in {args.out / 'networks.csv'}")
    for row in failed:
        print(f"failed: {row['job']}: {row['error']}")
    if failed:
        raise BenchmarkError(
            f"{len(failed)} of {len(rows)} searches have no result ({', '.join(row['job'] for row in failed)}): the same "
            f"command tries them again, {args.out / 'jobs'} holds their logs"
        )


def print_front(front: list[dict[str, Any]], goal: Goal) -> None:
    """The best trade-offs that a search has found, figures on the val split."""
    if not front:
        print("No network lies within the limits: give a wider range of --strengths, more --trials, or wider limits.")
    for trial in front:
        place = f"{trial['method']} strength {trial['strength']:.4g}"
        print(f"trade-off: {place}: val {100 * trial['val']:.2f} %, {goal.cost} {trial[goal.cost]:,.10g}")


def report(args: argparse.Namespace) -> None:
    """Write the page about all networks below a folder.

    Raises:
        BenchmarkError: there is none.
    """
    print(f"Report: {write_report(args.out)}")


def evaluate(args: argparse.Namespace) -> None:
    """Print the accuracy of a saved network on the official keyword features.

    Raises:
        BenchmarkError: network or features cannot be used.
    """
    accuracy = evaluate_keywords(args.module, DataOptions(args.data_dir))
    print(f"{args.module}: {100 * accuracy:.1f} % of the 1,000 official keyword features")


def job(args: argparse.Namespace) -> None:
    """Execute one job of a sweep."""
    run_job(args.folder)
