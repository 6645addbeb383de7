"""What do the searched connections of a binary network buy? Accuracy, bits and operations on a CIFAR-10 subset.

    NASOPT_DATA=... python -m examples.nasb_accuracy --seeds 3

Every binary network is pre-trained in full precision and fine-tuned; all networks get the same number of epochs. One search
per seed is shared by the variants, which differ in what they keep of it.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nasopt
from benchmarks_mlperf_tiny.networks import resnet8
from examples.cifar_subset import batches, load_subset
from nasopt import NASB
from nasopt.methods.nasb import AlternatingSearch, binarize, fine_tune_optimizer, full_precision

SHAPE = (3, 32, 32)
CELLS = ["stack1", "stack2", "stack3"]


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
        return 100 * float((model(data[0]).argmax(1) == data[1]).float().mean())


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
    steps = AlternatingSearch(model, F.cross_entropy, arch_lr=0.02)
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
    kinds = {}
    for name, operation in (("backbone", None), ("Bi-Real", "identity")):
        fixed = copy.deepcopy(nasb)
        for cell, (_, module) in zip(fixed["kept"], found.layout.cells):
            count = len(module.shapes)
            fixed["kept"][cell] = [[0, i, i + 1, operation] for i in range(count - 1)] if operation else []
        kinds[name] = fixed
    kinds["NASB"] = nasb
    for preset in ("V2", "V4"):
        variant = NASB(seed_model, SHAPE, cells=CELLS, preset=preset)
        columns = [found.settings.candidates.index(name) for name in variant.settings.candidates]
        with torch.no_grad():
            variant.alpha.copy_(found.alpha[:, columns])
        kinds[preset] = variant.arch_structure()
    return kinds


def costs(model: nn.Module) -> tuple[float, float]:
    """Size [kbit] and operations [M]."""
    with_cost = nasopt.PIT(model, SHAPE)
    return with_cost.get_cost("size_bits", True) / 1e3, with_cost.get_cost("ops", True) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("seeds", 3), ("images", 2000), ("tests", 1000), ("width", 16), ("epochs", 8), ("search", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, tests = load_subset("train", options.images), load_subset("test", options.tests)
    results: dict[str, list[float]] = {}
    prices: dict[str, list[tuple[float, float]]] = {}
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        start = time.time()
        seed_model = resnet8(width=options.width)
        full = pretrain(copy.deepcopy(seed_model), data, 2 * options.epochs, seed)
        models = {"full precision": full}
        found = search(seed_model, data, options.search, seed)
        for name, structure in structures(found, seed_model).items():
            models[name] = three_stages(structure, seed_model, data, options.epochs, seed)
        for name, model in models.items():
            results.setdefault(name, []).append(accuracy(model, tests))
            prices.setdefault(name, []).append(costs(model))
        kept = {c: [k[1:] for k in ks] for c, ks in found.arch_structure()["kept"].items()}
        print(json.dumps({"seed": seed, "seconds": round(time.time() - start), "kept": kept}), flush=True)
    print("| network | accuracy [%] | per seed | size [kbit] | operations [M] |\n| --- | --- | --- | --- | --- |")
    for name, values in results.items():
        bits, ops = (statistics.mean(p[i] for p in prices[name]) for i in (0, 1))
        each = ", ".join(f"{value:.1f}" for value in values)
        print(f"| {name} | {statistics.mean(values):.1f} | {each} | {bits:.0f} | {ops:.2f} |")


if __name__ == "__main__":
    main()
