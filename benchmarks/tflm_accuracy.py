"""Accuracy of found networks in torch, in LiteRT (float and int8) and in TFLM, on the test splits of the four tasks.

    python -m benchmarks.tflm_accuracy                                       # searches of the recipes' length, then exports
    python -m benchmarks.tflm_accuracy --task kws --warmup 2 --search 4 --finetune 4 --strength 0.3
    python -m benchmarks.tflm_accuracy --task ic --module results/...

Needs `pip install "nasopt[bench,litert]"`. Real data where `NASOPT_DATA` has it, else the embedded set. Ranges come from 512
training examples.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks_mlperf_tiny.cli import add_run_options
from benchmarks_mlperf_tiny.commands import SETTINGS
from benchmarks_mlperf_tiny.config import make_config
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.evaluate import load_module
from benchmarks_mlperf_tiny.export_int8 import batches, calibration, real_or_embedded
from benchmarks_mlperf_tiny.search import Run
from benchmarks_mlperf_tiny.tasks import TASKS, get_task
from nasopt.export import to_tflite
from nasopt.export.tflite import CLIPPED


def row(args: argparse.Namespace, name: str) -> str:
    """One row of the table per method of calibration."""
    task = get_task(name)
    chosen = args.data or real_or_embedded(task)
    data = task.dataset(chosen).load(DataOptions(args.data_dir))
    if args.module is not None:
        network = load_module(args.module)
    else:
        config = make_config(task, chosen, args.method, **{key: getattr(args, key, None) for key in SETTINGS})
        network = Run(config, task, data, quiet=args.quiet).run().network

    def figure(outputs: Tensor, _targets: Any) -> float:
        return task.figure(outputs, data.test)

    folder = args.out / f"{name}-{chosen}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for method in CLIPPED:
        report = to_tflite(
            network,
            folder / f"found-{method}.tflite",
            calibration(data, 512),
            list(batches(data, data.test, 250)),
            method=method,
            metric=figure,
            targets=["cortex_m4"],
        )
        assert report.device is not None
        assert report.device.arena is not None
        shares = " | ".join(f"{100 * report.accuracy[form]:.2f} %" for form in ("torch", "float", "int8", "tflm"))
        sizes = f"{report.file_bytes:,} | {report.device.arena.needed:,}"
        rows.append(
            f"| `{name}`, {chosen}, {method} | {shares} | {report.difference:.1e} | {report.device.steps} | {sizes} |"
        )
    return "\n".join(rows)


def main() -> int:
    """Search or load, export, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_options(parser)
    parser.add_argument("--strength", type=float, help="weight of the cost in the loss")
    parser.add_argument("--seed", type=int, help="of weights and randomness; default: 0")
    parser.add_argument("--module", type=Path, help="folder of a finished search to export instead, with one --task")
    parser.set_defaults(task=",".join(TASKS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads or 1)
    print("| task, data, ranges | torch | float | int8 | TFLM | float differs by | steps | int8 [B] | arena [B] |")
    print("| --- " + "| ---: " * 8 + "|", flush=True)
    for name in args.task.split(","):
        print(row(args, name), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
