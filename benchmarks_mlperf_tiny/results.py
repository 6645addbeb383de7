"""Where does a run leave what it found? Names of folders and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from benchmarks_mlperf_tiny.checkpoint import write_atomic, write_text
from benchmarks_mlperf_tiny.config import RunConfig
from benchmarks_mlperf_tiny.run_state import RunResult
from benchmarks_mlperf_tiny.summary import draw_channels


def run_name(config: RunConfig) -> str:
    """Folder name of a run: readable, and different for different searches."""
    parts = [config.task, config.data, config.method]
    if config.method != "seed":
        cost = [config.regularizer, *([] if config.relative else ["absolute"]), f"{config.strength:g}"]
        parts += cost if config.budget is None else [config.budget]
    return "-".join([*parts, f"s{config.seed}"])


def save_result(folder: Path, summary: dict[str, Any], found: RunResult) -> None:
    """Write module, weights, picture and, last, the summary: where that exists, the result is complete."""
    network = found.network.cpu().eval()
    write_atomic(folder / "found_module.pt", lambda file: torch.save(network, file))
    write_atomic(folder / "found_weights.pt", lambda file: torch.save(network.state_dict(), file))
    write_atomic(folder / "channels.png", lambda file: draw_channels(summary, file))
    write_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
