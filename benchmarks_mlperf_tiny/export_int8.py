"""Cost of int8: found networks as float and int8 ONNX files, judged on the test split beside the torch network.

    python -m benchmarks_mlperf_tiny.export_int8                                     # all tasks: searches, then exports
    python -m benchmarks_mlperf_tiny.export_int8 --task ic --module results/...

Without `--data` real data is taken where `NASOPT_DATA` has it, else the embedded set.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks_mlperf_tiny.cli import add_run_options, add_single_options
from benchmarks_mlperf_tiny.commands import SETTINGS
from benchmarks_mlperf_tiny.config import make_config
from benchmarks_mlperf_tiny.data.sources import DataOptions, has_stand_in
from benchmarks_mlperf_tiny.data.splits import Split, TaskData
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.evaluate import load_module
from benchmarks_mlperf_tiny.search import Run
from benchmarks_mlperf_tiny.tasks import TASKS, Task, get_task
from nasopt.errors import NasoptError
from nasopt.export import ExportReport, to_int8_onnx, to_onnx
from nasopt.export.int8 import METHODS

# Data set of a task where the folder of NASOPT_DATA has the file.
REAL = {
    "ic": ("cifar10_subset", "cifar10_lossless_subset.npz"),
    "kws": ("fsdd", "fsdd_8k.npz"),
    "vww": ("person", "person_64x128_jpeg.npz"),
}
TARGET = "cortex_m4"


def real_or_embedded(task: Task) -> str:
    """Name of the task's real data set where it is at hand, else of the embedded one."""
    name, file = REAL.get(task.name, ("", ""))
    return name if file and has_stand_in(file) else task.default_data


def batches(data: TaskData, split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Network inputs and labels in batches."""
    for x, y in split.batches(size):
        yield x if data.prepare is None else data.prepare(x), y


def calibration(data: TaskData, samples: int) -> Iterator[Tensor]:
    """Inputs of training examples, not augmented, in random order."""
    generator = torch.Generator().manual_seed(0)
    size = min(64, samples)
    for number, (x, _) in enumerate(data.train.shuffled(size, generator)):
        if number * size >= samples:
            return
        yield x if data.prepare is None else data.prepare(x)


def export(
    network: nn.Module, task: Task, data: TaskData, folder: Path, samples: int, method: str
) -> tuple[ExportReport, ExportReport]:
    """Write `found.onnx` and `found-int8.onnx` into `folder`; their reports, with the figure of merit on the test split."""

    def figure(outputs: Tensor, _targets: Any) -> float:
        return task.figure(outputs, data.test)

    figure.__name__ = task.figure_name
    folder.mkdir(parents=True, exist_ok=True)
    test = list(batches(data, data.test, 250))
    options: dict[str, Any] = {"data": test, "metric": figure, "targets": [TARGET]}
    plain = to_onnx(network, folder / "found.onnx", test[0][0], **options)
    inputs = calibration(data, samples)
    return plain, to_int8_onnx(network, folder / "found-int8.onnx", inputs, method=method, **options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Search or load, export, print a table; 0 done, 1 cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks_mlperf_tiny.export_int8", description=__doc__)
    add_run_options(parser)
    add_single_options(parser)
    parser.add_argument("--module", type=Path, help="folder of a finished search to export instead, with one --task")
    parser.add_argument("--samples", type=int, default=512, help="training examples for calibration; default: 512")
    parser.add_argument("--calibration", default="percentile", help=f"one of {', '.join(METHODS)}; default: percentile")
    parser.set_defaults(task=",".join(TASKS))
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads or 1)
    try:
        rows = [run_task(args, name) for name in args.task.split(",")]
    except (BenchmarkError, NasoptError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        "| task, data | figure | torch | float ONNX | int8 ONNX | difference of float outputs | float [B] | int8 [B] |"
    )
    print("| --- " * 8 + "|")
    print("\n".join(rows))
    return 0


def run_task(args: argparse.Namespace, name: str) -> str:
    """One row of the table.

    Raises:
        BenchmarkError: anything that cannot be served; the message says what to do.
        NasoptError: the network cannot be exported.
    """
    task = get_task(name)
    if args.module is not None and "," in args.task:
        raise BenchmarkError("--module is one network: name its task with --task")
    chosen = args.data or real_or_embedded(task)
    data = task.dataset(chosen).load(DataOptions(args.data_dir))
    if args.module is not None:
        network = load_module(args.module)
    else:
        config = make_config(task, chosen, args.method, **{key: getattr(args, key) for key in SETTINGS})
        network = Run(config, task, data, quiet=args.quiet).run().network
    plain, small = export(network, task, data, args.out / f"{name}-{chosen}", args.samples, args.calibration)
    print(plain, small, sep="\n", flush=True)
    shares = " | ".join(f"{100 * small.accuracy[form]:.2f} %" for form in ("torch", "float", "int8"))
    label = f"`{name}`, {chosen}{' (synthetic)' if data.synthetic and chosen != 'synthetic' else ''}"
    sizes = f"{plain.file_bytes:,} | {small.file_bytes:,}"
    return f"| {label} | {task.figure_name} | {shares} | {plain.difference:.1e} | {sizes} |"


if __name__ == "__main__":
    sys.exit(main())
