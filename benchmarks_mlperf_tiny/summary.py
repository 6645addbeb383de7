"""Result of a search: seed and found network side by side as text, plain values and a picture; names of its files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

import nasopt
from benchmarks_mlperf_tiny.config import RunConfig, start_of
from benchmarks_mlperf_tiny.errors import DamagedFileError
from benchmarks_mlperf_tiny.files import digest, read_json, write_atomic, write_bytes, write_json
from benchmarks_mlperf_tiny.limits import kept
from benchmarks_mlperf_tiny.measure import TARGETS, Layer, costs, list_layers
from benchmarks_mlperf_tiny.outcome import RunResult
from benchmarks_mlperf_tiny.tasks import Task, get_task

WEIGHTS = "found_weights.pt"
COSTS = {
    "params": "parameters",
    "size": "size, norms folded",
    "macs": "MACs",
    "memory": "peak memory, 8 bits [bytes]",
}
# Of networks with binary weights, beside the others.
BINARY_COSTS = {"size_bits": "size [bits]", "ops": "operations, 64 binary MACs as one"}
# Of networks in few bits; of the seed in 32.
QUANTISED_COSTS = {"size_bits": "size [bits]", "flash": "flash [bytes]", "average_bits": "bits per weight"}


def run_name(config: RunConfig) -> str:
    """Folder name of a run: readable, and different for different searches."""
    parts = [config.task, config.data, config.method]
    parts += [one for one in (config.candidates, config.precision) if one is not None]
    if config.method != "seed":
        cost = [config.regularizer, *([] if config.relative else ["absolute"]), f"{config.strength:g}"]
        parts += cost if config.budget is None else [config.budget]
    return "-".join([*parts, f"s{config.seed}"])


def describe(network: nn.Module, result: RunResult | None, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Costs, figures (None where the network was not trained) and layers of a network, as plain values."""
    return {
        **costs(network, input_shape),
        "val": result.val if result else None,
        "test": result.test if result else None,
        "seconds": round(result.seconds, 1) if result else None,
        "layers": {layer.name: vars(layer) for layer in list_layers(network)},
    }


def summarise(
    config: RunConfig, task: Task, seed: nn.Module, seed_result: RunResult | None, found: RunResult, synthetic: bool
) -> dict[str, Any]:
    """Everything worth keeping of a search, ready for JSON."""
    return {
        "config": config.as_dict(),
        "figure": task.figure_name,
        "synthetic": synthetic,
        "classes": found.classes,
        "seed": describe(seed, seed_result, task.input_shape),
        "found": describe(found.network, found, task.input_shape),
        "structures": found.structures,
        "history": found.history,
    }


def _percent(value: float | None) -> str:
    return "not trained" if value is None else f"{100 * value:.2f} %"


def _layer(fields: dict[str, Any] | None) -> str:
    return "gone" if fields is None else str(Layer(**{**fields, "kernel": tuple(fields["kernel"])}))


def text_table(summary: dict[str, Any]) -> str:
    """The summary as a table of three columns: what, seed, found."""
    seed, found = summary["seed"], summary["found"]
    kind = summary["figure"] + (" (synthetic data)" if summary["synthetic"] else "")
    rows = [("", "seed", "found", "found / seed")]
    is_binary = any(layer["kind"].startswith("Binary") for layer in found["layers"].values())
    further = BINARY_COSTS if is_binary else QUANTISED_COSTS if summary["config"].get("precision") else {}
    for key, label in (COSTS | further).items():
        rows.append((label, f"{seed[key]:,}", f"{found[key]:,}", f"{100 * found[key] / seed[key]:.1f} %"))
    for target in TARGETS:
        before, after = (side.get(f"{target}_ms", 0.0) for side in (seed, found))
        if before and after is not None:
            rows.append((f"latency {target} [ms]", f"{before:.3f}", f"{after:.3f}", f"{100 * after / before:.1f} %"))
    budget = summary["config"]["budget"]
    if budget is not None:
        rows.append(("budget", "", budget, "kept" if kept(budget, seed, found) else "missed"))
    for key in ("val", "test"):
        rows.append((f"{kind}, {key}", _percent(seed[key]), _percent(found[key]), ""))
    rows.append(("seconds", str(seed["seconds"] or ""), str(found["seconds"]), ""))
    names = list(dict.fromkeys([*seed["layers"], *found["layers"]]))
    for name in names:
        before, after = seed["layers"].get(name), found["layers"].get(name)
        share = f"{100 * after['outputs'] / before['outputs']:.0f} % of channels" if before and after else ""
        rows.append((name, _layer(before) if before else "", _layer(after), share))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def draw_channels(summary: dict[str, Any], file: BinaryIO) -> None:
    """A PNG of the channels that every layer of the seed had and has kept."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    before, after = summary["seed"]["layers"], summary["found"]["layers"]
    names = list(dict.fromkeys([*before, *after]))
    places = range(len(names))
    figure = Figure(figsize=(max(6.0, 0.45 * len(names)), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.bar(places, [before.get(name, {"outputs": 0})["outputs"] for name in names], color="#d0d7de", label="seed")
    kept = [after.get(name, {"outputs": 0})["outputs"] for name in names]
    bars = axes.bar(places, kept, color="#1f6feb", width=0.55, label="found")
    axes.bar_label(bars, padding=1, fontsize=8)
    axes.set_xticks(places, names, rotation=60, ha="right", fontsize=8)
    axes.set_ylabel("output channels")
    config = summary["config"]
    share = 100 * summary["found"]["macs"] / summary["seed"]["macs"]
    axes.set_title(
        f"{config['task']} on {config['data']}: {config['method']} keeps {share:.0f} % of the MACs", fontsize=10
    )
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150, format="png")


def save_result(folder: Path, summary: dict[str, Any], found: RunResult) -> None:
    """Write weights, picture and, last, the summary with the checksum of both: where that exists, the result is complete."""
    weights = io.BytesIO()
    torch.save(found.network.cpu().eval().state_dict(), weights)
    write_bytes(folder / WEIGHTS, weights.getvalue())
    write_atomic(folder / "channels.png", lambda file: draw_channels(summary, file))
    write_json(folder / "summary.json", {**summary, "weights_sha256": digest(weights.getvalue())})


def load_result(folder: Path) -> nn.Module:
    """The found network of a results folder: structures of its summary, applied to the task's seed, and its weights.

    Nothing is unpickled but tensors.

    Raises:
        DamagedFileError: a file of the folder is missing or damaged; the message names it.
        BenchmarkError: the summary is of a task or method that does not exist here.
    """
    summary = read_json(folder / "summary.json")
    path = folder / WEIGHTS
    content = path.read_bytes() if path.is_file() else b""
    if digest(content) != summary.get("weights_sha256"):
        raise DamagedFileError(f"{path} is missing or damaged: its checksum is another one than in summary.json")
    config = RunConfig(**summary["config"])
    network = start_of(config, get_task(config.task), summary["classes"])
    for structure in summary["structures"]:
        network = nasopt.restore(network, structure)
    network.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    return network.eval()
