"""What does `search` do, from arguments to files?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks_mlperf_tiny.checkpoint import write_atomic, write_text
from benchmarks_mlperf_tiny.config import RunConfig, make_config
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.lock import locked
from benchmarks_mlperf_tiny.search import Run, RunResult
from benchmarks_mlperf_tiny.summary import draw_channels, summarise, text_table
from benchmarks_mlperf_tiny.tasks import get_task

SETTINGS = (
    "strength",
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


def run_name(config: RunConfig) -> str:
    """Folder name of a run: readable, and different for different searches."""
    parts = [config.task, config.data, config.method]
    if config.method != "seed":
        parts += [config.regularizer, f"{config.strength:g}"]
    return "-".join([*parts, f"s{config.seed}"])


def save_result(folder: Path, summary: dict[str, Any], found: RunResult) -> None:
    """Write what a search leaves behind: module, weights, summary, picture."""
    network = found.network.cpu().eval()
    write_atomic(folder / "found_module.pt", lambda file: torch.save(network, file))
    write_atomic(folder / "found_weights.pt", lambda file: torch.save(network.state_dict(), file))
    draw_channels(summary, folder / "channels.png")
    write_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")


def search(args: argparse.Namespace) -> None:
    """Train the seed for comparison, search, print both side by side, write the results.

    Raises:
        BenchmarkError: anything that cannot be served; the message says what to do.
    """
    task = get_task(args.task)
    changes = {key: getattr(args, key) for key in SETTINGS}
    config = make_config(task, args.data, args.method, **changes)
    folder = args.out / run_name(config)
    with locked(folder):
        data = task.dataset(config.data).load(DataOptions(args.data_dir))
        checkpoints = {name: folder / f"{name}_checkpoint.pt" for name in ("seed", "found")}
        for path in checkpoints.values():
            if args.fresh:
                path.unlink(missing_ok=True)
            elif path.exists():
                print(f"going on from {path}")
        every = args.checkpoint_every
        seed_result = None
        if config.method != "seed" and not args.no_baseline:
            seed_config = make_config(task, args.data, "seed", **changes)
            seed_result = Run(seed_config, task, data, checkpoints["seed"], every, args.quiet).run()
        found = Run(config, task, data, checkpoints["found"], every, args.quiet).run()
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
