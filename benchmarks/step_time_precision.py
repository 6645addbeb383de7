"""Step time of quantised training: one width, several of weights, several of activations, against a step of the plain seed.

    python benchmarks/step_time_precision.py                  # ResNet-8, batch 32, one thread, 30 rounds
    python benchmarks/step_time_precision.py --rounds 60 --only ds_cnn

Steps of all models alternate, as in `step_time.py`; ratios are medians over the rounds, of CPU times of this process.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from benchmarks.step_time import BATCH, NETWORKS, cost_milliseconds, plain_step, seconds
from nasopt import MixedPrecision, Precision

SETTINGS: dict[str, Any] = {
    "8 bits": 8,
    "weights 2, 4, 8": Precision(weights=(2, 4, 8)),
    "and activations 4, 8": Precision(weights=(2, 4, 8), activations=(4, 8)),
    "weights per channel": Precision(weights=(2, 4, 8), granularity="channel"),
}


def decides(model: MixedPrecision) -> bool:
    """Whether there is something to search."""
    return any(parameter.numel() for parameter in model.arch_parameters())


def quantised_step(model: MixedPrecision, x: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-4, arch_lr=1e-9))
    searches = decides(model)

    def step() -> None:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        (loss + 1e-12 * model.get_regularization_loss() if searches else loss).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", choices=list(NETWORKS), default="resnet8")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    build, shape = NETWORKS[options.only]
    seed, x = build(), torch.randn(BATCH, *shape)
    models = {name: MixedPrecision(copy.deepcopy(seed), shape, precision=how) for name, how in SETTINGS.items()}
    steps = [plain_step(seed, x), *(quantised_step(model, x) for model in models.values())]
    for step in steps * 3:
        step()
    times = [[seconds(step) for step in steps] for _ in range(options.rounds)]
    print(f"{options.only}: a plain step takes {1e3 * statistics.median(row[0] for row in times):.2f} ms")
    for i, (name, model) in enumerate(models.items(), 1):
        ratio = statistics.median(row[i] / row[0] for row in times)
        cost = cost_milliseconds(model, 50) if decides(model) else 0.0
        print(f"{name:22} {ratio:6.3f} of it, cost and gradient {cost:6.3f} ms")


if __name__ == "__main__":
    main()
