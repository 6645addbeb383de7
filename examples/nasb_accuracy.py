"""Accuracy, bits and operations of binary networks on a CIFAR-10 subset: NASB against backbones without a search.

    NASOPT_DATA=... python -m examples.nasb_accuracy --seeds 3

Every binary network is pre-trained in full precision and fine-tuned, the full-precision network trains as long without a
break; batches, epochs, learning rates and schedules are the same for all. One search per seed is shared by the variants,
which differ in what they keep of it. Every trained network is a line of the file `--out` at once: the same command goes on
after the last line, and prints the table of what is there. With matplotlib a picture is drawn beside the file.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

import nasopt
from benchmarks_mlperf_tiny.networks import resnet8, set_norm_momentum
from examples.cifar_subset import batches, load_subset
from nasopt import NASB
from nasopt.errors import NoEffectWarning
from nasopt.methods.nasb import AlternatingSearch, binarize, fine_tune_optimizer, full_precision

SHAPE = (3, 32, 32)
CELLS = ["stack1", "stack2", "stack3"]
KINDS = ("backbone", "Bi-Real", "NASB", "V2", "V4")


def train(
    model: nn.Module, data: tuple[Tensor, Tensor], optimizer: torch.optim.Optimizer, epochs: int, seed: int
) -> nn.Module:
    """Train with cross entropy and a cosine schedule; returns the model."""
    generator = torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        model.train()
        for x, y in batches(*data, 50, generator):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        schedule.step()
    return model


def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Share of right answers [%]."""
    model.eval()
    with torch.no_grad():
        right = [(model(x).argmax(1) == y).float() for x, y in zip(data[0].split(100), data[1].split(100))]
    return 100 * float(torch.cat(right).mean())


def pretrain(model: nn.Module, data: Any, epochs: int, seed: int) -> nn.Module:
    """Full precision, SGD with momentum."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    return train(model, data, optimizer, epochs, seed)


def three_stages(structure: dict[str, Any], seed_model: nn.Module, data: Any, epochs: int, seed: int) -> nn.Module:
    """Stages two and three: the twin is pre-trained, binarised, and fine-tuned."""
    twin = pretrain(full_precision(nasopt.restore(seed_model, structure)), data, epochs, seed)
    binary = binarize(twin)
    return train(binary, data, fine_tune_optimizer(binary, 2e-3), epochs, seed)


def search(seed_model: nn.Module, data: tuple[Tensor, Tensor], epochs: int, seed: int) -> NASB:
    """Stage one: half of the images are for the weights, half for the architecture."""
    model = NASB(seed_model, SHAPE, cells=CELLS)
    steps = AlternatingSearch(model, F.cross_entropy, arch_lr=0.05)
    half = len(data[0]) // 2
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        training = batches(data[0][:half], data[1][:half], 50, generator)
        validation = batches(data[0][half:], data[1][half:], 50, generator)
        for train_batch, validation_batch in zip(training, validation):
            steps.arch_step(validation_batch)
            steps.weight_step(train_batch)
    return model


def structures(found: NASB, seed_model: nn.Module) -> dict[str, dict[str, Any]]:
    """Structures to compare, all from one search: what is kept differs."""
    nasb = found.arch_structure()
    bi_real = copy.deepcopy(found)
    for cell, shapes in found.cell_shapes.items():
        for i in range(len(shapes) - 1):
            bi_real.choose(cell, i, i + 1, "identity")
    bare = {**nasb, "binary_cells": {**nasb["binary_cells"], "candidates": []}, "choices": {}}
    kinds = {"backbone": bare, "Bi-Real": bi_real.arch_structure(), "NASB": nasb}
    for preset in ("V2", "V4"):
        variant = NASB(seed_model, SHAPE, cells=CELLS, preset=preset)
        columns = [found.settings.candidates.index(name) for name in variant.settings.candidates]
        with torch.no_grad():
            rows = found.choice_logits.reshape(-1, len(found.settings.candidates))
            variant.choice_logits.copy_(rows[:, columns].reshape(-1))
        kinds[preset] = variant.arch_structure()
    return kinds


def costs(model: nn.Module) -> dict[str, float]:
    """Size [kbit] and operations [M]."""
    with warnings.catch_warnings():  # nothing is to be searched any more
        warnings.simplefilter("ignore", NoEffectWarning)
        with_cost = nasopt.PIT(model, SHAPE)
    return {"size_kbit": with_cost.get_cost("size_bits", True) / 1e3, "ops_M": with_cost.get_cost("ops", True) / 1e6}


class Records:
    """Lines of a JSON file, one per seed and network.

    Raises:
        SystemExit: the file was written with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self.known = {(r["seed"], r["network"]): r for r in map(json.loads, lines)}
        for record in self.known.values():
            if record["settings"] != settings:
                raise SystemExit(
                    f"{path} was written with {record['settings']}, asked for {settings}: use another --out"
                )

    def get(self, seed: int, network: str, make: Any) -> dict[str, Any]:
        """The record of a network; if there is none yet, `make` is called for it."""
        if (seed, network) not in self.known:
            torch.manual_seed(seed)
            start = time.process_time()
            record = {"settings": self.settings, "seed": seed, "network": network, **make()}
            record["cpu_s"] = round(time.process_time() - start, 1)
            with self.path.open("a") as file:
                print(json.dumps(record), file=file, flush=True)
            shown = {key: value for key, value in record.items() if key not in ("settings", "structures")}
            print(json.dumps(shown), flush=True)
            self.known[seed, network] = record
        return self.known[seed, network]

    def table(self) -> dict[str, dict[str, Any]]:
        """Of every network: `accuracy` per seed, mean `size_kbit` and `ops_M`; the search itself is left out."""
        names = dict.fromkeys(name for _, name in self.known if name != "search")
        rows = {}
        for name in names:
            records = [record for (_, other), record in self.known.items() if other == name]
            means = {key: statistics.mean(record[key] for record in records) for key in ("size_kbit", "ops_M")}
            rows[name] = {"accuracy": [record["accuracy"] for record in records], **means}
        return rows


def run_seed(records: Records, seed: int, data: Any, tests: Any, options: argparse.Namespace) -> None:
    """All networks of one seed."""
    torch.manual_seed(seed)
    seed_model = resnet8(width=options.width)
    set_norm_momentum(seed_model, 0.1)  # statistics of the last ten steps; torch's own default, which new norms have

    def judged(model: nn.Module) -> dict[str, Any]:
        return {"accuracy": round(accuracy(model, tests), 2), **costs(model)}

    def make_search() -> dict[str, Any]:
        found = search(seed_model, data, options.search, seed)
        kept = {cell: [one[1:] for one in all_] for cell, all_ in found.arch_structure()["kept"].items()}
        return {"kept": kept, "structures": structures(found, seed_model)}

    records.get(
        seed, "full precision", lambda: judged(pretrain(copy.deepcopy(seed_model), data, 2 * options.epochs, seed))
    )
    for name, structure in records.get(seed, "search", make_search)["structures"].items():
        if name not in options.only:
            continue

        def make_binary(structure: dict[str, Any] = structure) -> dict[str, Any]:
            return judged(three_stages(structure, seed_model, data, options.epochs, seed))

        records.get(seed, name, make_binary)


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Accuracy over size: a dot per seed, a ring at the mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, row in rows.items():
        values, size = row["accuracy"], row["size_kbit"]
        (dots,) = axes.plot([size] * len(values), values, ".", label=name)
        axes.plot(size, statistics.mean(values), "o", markersize=10, fillstyle="none", color=dots.get_color())
    axes.set(xscale="log", xlabel="size [kbit]", ylabel="accuracy [%]")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("seeds", 3), ("images", 1500), ("tests", 2000), ("width", 16), ("epochs", 6), ("search", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", nargs="*", choices=KINDS, default=KINDS, help="of the binary networks")
    parser.add_argument("--out", type=Path, default=Path("results/nasb_accuracy.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {name: getattr(options, name) for name in ("images", "tests", "width", "epochs", "search")}
    records = Records(options.out, settings)
    data, tests = load_subset("train", options.images), load_subset("test", options.tests)
    for seed in range(options.seeds):
        run_seed(records, seed, data, tests, options)
    rows = records.table()
    print("| network | accuracy [%] | per seed | size [kbit] | operations [M] |\n| --- | --- | --- | --- | --- |")
    for name, row in rows.items():
        each = ", ".join(f"{value:.1f}" for value in row["accuracy"])
        mean = statistics.mean(row["accuracy"])
        print(f"| {name} | {mean:.1f} | {each} | {row['size_kbit']:.0f} | {row['ops_M']:.2f} |")
    try:
        draw(rows, options.out.with_suffix(".png"))
    except ImportError:
        print("no picture: pip install matplotlib")


if __name__ == "__main__":
    main()
