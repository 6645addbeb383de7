"""Command line of `python -m benchmarks_mlperf_tiny`: parser and error handling."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks_mlperf_tiny.config import REGULARIZERS
from benchmarks_mlperf_tiny.measure import COSTS
from benchmarks_mlperf_tiny.methods import METHODS
from benchmarks_mlperf_tiny.tasks import TASKS
from nasopt.cli.config_file import add_config_options, count, parse_with_config, print_config
from nasopt.errors import NasoptError

INTERRUPTED = 130
CANDIDATES_HELP = (
    "of methods with a supernet: a,b,... in place of the task's own candidates, names of nasopt.with_candidates"
)
PRECISION_HELP = "bits of weights and activations while training: 8, w4a8, or mixed: widths are searched"
BUDGET_HELP = "metric=limit,... like macs=0.5 (half of the seed's) or size=20000,cortex_m4_ms=50"


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Options of everything that trains; None means: as the data set's recipe says."""
    parser.add_argument("--task", default="ic", help=f"one of {', '.join(TASKS)}")
    parser.add_argument("--data", help="data set; default: the task's embedded one")
    parser.add_argument("--data-dir", type=Path, help="folder with a local copy of the data set")
    parser.add_argument("--method", default="pit", help=f"one of {', '.join(METHODS)}")
    parser.add_argument("--candidates", help=CANDIDATES_HELP)
    parser.add_argument("--precision", help=PRECISION_HELP)
    parser.add_argument(
        "--regularizer",
        help=f"cost to reduce: {' or '.join(REGULARIZERS)}; default: macs, nasb: ops, with --precision mixed flash",
    )
    parser.add_argument(
        "--absolute",
        dest="relative",
        action="store_const",
        const=False,
        help="strengths weigh the cost in its own unit (MAC or weights), not as a fraction of the seed's",
    )
    parser.add_argument("--warmup", type=int, metavar="EPOCHS")
    parser.add_argument("--search", type=int, metavar="EPOCHS")
    parser.add_argument("--finetune", type=int, metavar="EPOCHS")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--lr", type=float, help="of network parameters")
    parser.add_argument("--arch-lr", type=float, help="of architecture parameters")
    parser.add_argument(
        "--patience", type=int, metavar="EPOCHS", help="end a phase early after that many without progress"
    )
    parser.add_argument("--device", help="torch device; default: cpu")
    parser.add_argument("--amp", action="store_true", default=None, help="compute in bfloat16 where that is safe")
    parser.add_argument("--compile", action="store_true", default=None, help="run the models through torch.compile")
    parser.add_argument("--checkpoint-every", type=count, default=1, metavar="EPOCHS")
    parser.add_argument(
        "--threads", type=count, help="threads of torch; default: 1. Results repeat exactly for equal numbers only"
    )
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of results; default: results")
    parser.add_argument("--fresh", action="store_true", help="discard an interrupted run instead of going on with it")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def add_single_options(parser: argparse.ArgumentParser) -> None:
    """Options of one search, of which a sweep takes several."""
    parser.add_argument("--strength", type=float, help="weight of the cost in the loss")
    parser.add_argument("--budget", help=f"limits in place of a strength: {BUDGET_HELP}")
    parser.add_argument("--seed", type=int, help="of weights and randomness; default: 0")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks_mlperf_tiny`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks_mlperf_tiny", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    search = commands.add_parser("search", help="one search: seed and found network side by side")
    add_run_options(search)
    add_config_options(search)
    add_single_options(search)
    search.add_argument("--tensorboard", action="store_true", help="write curves for TensorBoard")
    search.add_argument("--no-baseline", action="store_true", help="do not train the seed for comparison")
    sweep = commands.add_parser("sweep", help="searches with many strengths, in parallel, resumable")
    add_run_options(sweep)
    add_config_options(sweep)
    sweep.add_argument(
        "--strengths", help="grid: low:high:count or a,b,c, default 0.1:10:5; optuna: low:high, default 0.1:10"
    )
    sweep.add_argument(
        "--budget",
        action="append",
        help=f"limits in place of strengths, once per search: {BUDGET_HELP}; macs=low:high:count is a series of searches",
    )
    sweep.add_argument(
        "--no-fill",
        action="store_true",
        help="grid: do not search the gaps between networks where several strengths find the same one",
    )
    sweep.add_argument("--seeds", default="0", help="list of seeds; default: 0")
    sweep.add_argument(
        "--jobs", type=count, help="searches at a time; default: 1, with Ray as many as the cluster holds"
    )
    sweep.add_argument(
        "--backend",
        default="local",
        help="local: processes on this machine (default); ray: the Ray cluster at RAY_ADDRESS, or one started here",
    )
    sweep.add_argument("--num-cpus", type=float, metavar="N", help="Ray: CPUs for each search; default: its threads")
    sweep.add_argument("--num-gpus", type=float, metavar="N", help="Ray: GPUs for each search, parts too; default: 0")
    sweep.add_argument(
        "--sampler",
        default="grid",
        help="grid: the given strengths (default); optuna: strengths proposed from what earlier ones have given",
    )
    optuna = sweep.add_argument_group("with --sampler optuna")
    optuna.add_argument("--trials", type=int, help="how many networks of each seed, earlier ones included; default: 20")
    optuna.add_argument(
        "--cost", help=f"to trade against the figure of merit: {', '.join(COSTS)}; default: regularizer"
    )
    optuna.add_argument("--max-cost", type=float, metavar="LIMIT", help="largest cost wanted, in its own unit")
    optuna.add_argument("--min-figure", type=float, metavar="LIMIT", help="smallest figure wanted, 0.95 for 95 %%")
    sweep.set_defaults(command_line=None)
    report = commands.add_parser("report", help="HTML page with Pareto fronts of all networks in a folder")
    report.add_argument("--out", type=Path, default=Path("results"), help="folder of results; default: results")
    report.set_defaults(threads=None)
    evaluate = commands.add_parser(
        "evaluate", help="a saved keyword network on the 1,000 official MLPerf Tiny features"
    )
    evaluate.add_argument("module", type=Path, help="folder of a search, or a saved module, with the 12 classes")
    evaluate.add_argument("--data-dir", type=Path, help="folder with kws01_eval_int8.npz; default: NASOPT_DATA")
    evaluate.set_defaults(threads=None)
    job = commands.add_parser("job", help="one job of a sweep, as its runner starts it")
    job.add_argument("folder", type=Path)
    job.add_argument("--threads", type=count)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors go to stderr in one line.

    Returns:
        Exit code: 0 done, 1 cannot be done, 130 interrupted.
    """
    parser, words = build_parser(), sys.argv[1:] if arguments is None else list(arguments)
    try:
        args = parse_with_config(parser, words)
        if getattr(args, "print_config", False):
            print(print_config(parser, args))
            return 0
        import torch

        from benchmarks_mlperf_tiny import commands
        from benchmarks_mlperf_tiny.processes import joined

        torch.set_num_threads(args.threads or 1)
        with joined(args.command, getattr(args, "device", None)) as takes_part:
            if takes_part:
                getattr(commands, args.command)(args)
    except (NasoptError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    return 0
