"""Step time of PIT: a training step of the search model against one of the plain seed, paired in one run.

    python benchmarks/step_time.py                 # batch 32, one thread, 60 pairs
    python benchmarks/step_time.py --pairs 200 --only autoencoder
    python benchmarks/step_time.py --only resnet8 --regularizer latency:cortex_m4

Steps of the two models alternate, so that a slower minute of the machine meets both; the figure is the median of the
ratios of neighbouring steps. Times are CPU times of this process, which other processes disturb less than wall times. A
step is: forward, loss plus the regularizer (MACs if nothing else is said), backward, Adam.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from benchmarks_mlperf_tiny.networks import autoencoder, ds_cnn, mobilenet_v1, resnet8, tcn
from nasopt import PIT
from nasopt.search.model import SearchModel

BATCH = 32
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet8": (resnet8, (3, 32, 32)),
    "ds_cnn": (ds_cnn, (1, 49, 10)),
    "mobilenet_v1": (mobilenet_v1, (3, 96, 96)),
    "tcn": (tcn, (4, 256)),
    "autoencoder": (autoencoder, (640,)),
}


def plain_step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return step


def search_step(model: PIT, x: Tensor) -> Callable[[], None]:
    # A vanishing strength, so that the masks stay what they are and both models do the same work.
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-4, arch_lr=1e-9))

    def step() -> None:
        optimizer.zero_grad()
        (model(x).square().mean() + 1e-12 * model.get_regularization_loss()).backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def cost_milliseconds(model: SearchModel, repeats: int) -> float:
    """Median time of the regularizer and its gradient alone."""

    def step() -> None:
        model.zero_grad()
        model.get_regularization_loss().backward()

    for _ in range(10):
        step()
    return 1e3 * statistics.median(seconds(step) for _ in range(repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--only", choices=list(NETWORKS))
    parser.add_argument("--regularizer", default="macs", help="a metric, like memory or latency:cortex_m4")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'network':14} {'plain ms':>9} {'search ms':>10} {'ratio':>6} {'cost ms':>8}")
    for name, (build, shape) in NETWORKS.items():
        if options.only not in (None, name):
            continue
        seed = build()
        x = torch.randn(BATCH, *shape)
        search = PIT(copy.deepcopy(seed), shape, regularizer=options.regularizer)
        steps = (plain_step(seed, x), search_step(search, x))
        for step in steps * 5:
            step()
        pairs = [(seconds(steps[0]), seconds(steps[1])) for _ in range(options.pairs)]
        plain, searched = (statistics.median(side) for side in zip(*pairs))
        ratio = statistics.median(b / a for a, b in pairs)
        cost = cost_milliseconds(search, 100)
        print(f"{name:14} {plain * 1e3:9.2f} {searched * 1e3:10.2f} {ratio:6.3f} {cost:8.3f}")


if __name__ == "__main__":
    main()
