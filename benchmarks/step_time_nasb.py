"""Step time of NASB: both kinds of search step against a step of the binary backbone alone, paired in one run.

    python benchmarks/step_time_nasb.py                 # batch 50, one thread, 60 rounds
    python benchmarks/step_time_nasb.py --rounds 200 --only resnet8
    python benchmarks/step_time_nasb.py --active edges  # an operation on every edge, as in the source

The backbone alone is the found network that keeps no operation at all. In every round each step is made once, so that a
slower minute of the machine meets all; operations are drawn at every step, so figures are sums over the rounds,
divided. Times are CPU times of this process. A step is: forward, cross entropy, backward, optimizer (Adam for the
architecture, SGD with momentum for weights); the architecture step pays for `ops`, too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from benchmarks_mlperf_tiny.networks import resnet8
from examples.nasb_three_stages import SHAPE, resnet18
from nasopt import NASB
from nasopt.methods.nasb import AlternatingSearch, binary_cells

BATCH = 50
NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "resnet8": (resnet8, ["stack1", "stack2", "stack3"]),
    "resnet18": (resnet18, ["1", "2", "3", "4"]),
}
Step = Callable[[], object]


def backbone_alone(search: NASB, seed: nn.Module) -> nn.Module:
    """The binary network in which no edge has an operation."""
    return binary_cells(seed, SHAPE, cells=search.origin.structure["binary_cells"]["cells"], candidates=())


def plain_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--only", choices=list(NETWORKS))
    parser.add_argument("--active", choices=["nodes", "edges"], default="nodes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch = (torch.randn(BATCH, *SHAPE), torch.randint(0, 10, (BATCH,)))
    print(f"{'network':10} {'backbone ms':>12} {'weight step':>12} {'architecture step':>18}  (times the backbone's)")
    for name in NETWORKS if options.only is None else [options.only]:
        build, cells = NETWORKS[name]
        seed = build()
        model = NASB(seed, SHAPE, cells=cells, active=options.active)
        # A vanishing learning rate, so that all operations stay equally likely.
        search = AlternatingSearch(model, F.cross_entropy, strength=1e-12, arch_lr=1e-9, lr=1e-3)
        backbone, weight, arch = steps = (
            plain_step(backbone_alone(model, seed), batch),
            lambda search=search: search.weight_step(batch),  # type: ignore[misc]
            lambda search=search: search.arch_step(batch),  # type: ignore[misc]
        )
        total: dict[Step, float] = dict.fromkeys(steps, 0.0)
        for step in steps * 3:
            step()
        for _ in range(options.rounds):
            for step in steps:
                start = time.process_time()
                step()
                total[step] += time.process_time() - start
        ratios = [total[step] / total[backbone] for step in (weight, arch)]
        print(f"{name:10} {1e3 * total[backbone] / options.rounds:12.1f} {ratios[0]:12.3f} {ratios[1]:18.3f}")


if __name__ == "__main__":
    main()
