"""What does each command do, from arguments to files?"""

from __future__ import annotations

import argparse
import contextlib

from benchmarks_mlperf_tiny import processes
from benchmarks_mlperf_tiny.config import make_config
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.evaluate import evaluate_keywords
from benchmarks_mlperf_tiny.job import run_job
from benchmarks_mlperf_tiny.lock import locked
from benchmarks_mlperf_tiny.report import write_report
from benchmarks_mlperf_tiny.results import run_name, save_result
from benchmarks_mlperf_tiny.runner import LocalRunner
from benchmarks_mlperf_tiny.search import Run
from benchmarks_mlperf_tiny.summary import summarise, text_table
from benchmarks_mlperf_tiny.sweep import parse_seeds, parse_strengths, run_sweep
from benchmarks_mlperf_tiny.tasks import get_task
from benchmarks_mlperf_tiny.tensorboard import CurveWriter

SETTINGS = (
    "strength",
    "budget",
    "relative",
    "regularizer",
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
                path.unlink(missing_ok=True)
            elif path.exists():
                print(f"going on from {path}")
        every = args.checkpoint_every
        seed_result = None
        if config.method != "seed" and not args.no_baseline:
            seed_config = make_config(task, args.data, "seed", **changes)
            seed_result = Run(seed_config, task, data, checkpoints["seed"], every, args.quiet).run()
        curves = CurveWriter(folder / "curves") if args.tensorboard and first else None
        found = Run(config, task, data, checkpoints["found"], every, args.quiet, curves).run()
        if not first:
            return
        seed = seed_result.network if seed_result else task.seed(data.num_classes)
        summary = summarise(config, task, seed.cpu(), seed_result, found, data.synthetic)
        save_result(folder, summary, found)
        for path in checkpoints.values():  # what is finished need not be resumed
            path.unlink(missing_ok=True)
    epochs = config.warmup + config.search + config.finetune
    print(text_table(summary))
    if seed_result:
        print(
            f"Seed and found network: the same recipe, {epochs} epochs each, best epoch of the last {config.finetune}."
        )
    print(f"Results: {folder}")


def sweep(args: argparse.Namespace) -> None:
    """Search with many strengths; one row per network in `networks.csv`.

    Raises:
        BenchmarkError: anything that cannot be served; the message says what to do.
    """
    if args.jobs < 1:
        raise BenchmarkError(f"--jobs {args.jobs}: at least one must run at a time")
    threads = args.threads or 1
    if args.budget and args.strengths:
        raise BenchmarkError("--budget and --strengths: limits take the place of strengths, give one of them")
    runner = (
        LocalRunner(args.jobs, threads, args.command_line) if args.command_line else LocalRunner(args.jobs, threads)
    )
    changes = {key: getattr(args, key) for key in SETTINGS if key not in ("strength", "budget", "seed")}
    rows = run_sweep(
        args.out,
        get_task(args.task),
        args.data,
        args.method.split(","),
        [] if args.budget else parse_strengths(args.strengths or "0.1:10:5"),
        parse_seeds(args.seeds),
        runner,
        args.data_dir,
        args.quiet,
        budgets=args.budget or (),
        **changes,
    )
    failed = [row for row in rows if row["status"] == "failed"]
    print(f"{len(rows) - len(failed)} networks in {args.out / 'networks.csv'}")
    for row in failed:
        setting = row["budget"] or f"{row['strength']:g}"
        print(f"failed: {row['task']} {row['method']} {setting} seed {row['seed']}: {row['error']}")


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
