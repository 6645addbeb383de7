"""Prints the processor time of a whole search, with shrinking, over that of training the seed for as many epochs.

    python benchmarks/search_time.py --network resnet8 --share 0.25

Random data, so that no time is spent on loading, channels last in memory, which is faster for both; `nasopt.search` to a share
of the seed's MACs, 2/9 warm-up, 4/9 search, 1/3 fine-tuning. In front of every step of the search the seed takes one of its own,
so both find the same machine, and load counts for both. Steps alone are compared, and everything: norm statistics, the val
split, shrinking, export.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

import nasopt
from benchmarks_mlperf_tiny.networks import ds_cnn, resnet8
from nasopt.cost import network_cost
from nasopt.search import importance

NETWORKS = {"resnet8": (lambda: resnet8(10), (3, 32, 32), 10), "ds_cnn": (lambda: ds_cnn(12), (1, 49, 10), 12)}
Batches = list[tuple[Tensor, Tensor]]


class Paired:
    """A loader that trains the seed on every batch before it gives it away.

    Attributes:
        epochs: `(seed [s], search [s])` of every epoch that was read to its end: processor time of the steps.
        seed_time: of all steps of the seed, also where only some batches were read [s].
    """

    def __init__(self, seed: nn.Module, batches: Batches) -> None:
        self.model, self.batches = copy.deepcopy(seed).train(), batches
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2e-3, fused=True)
        self.epochs: list[tuple[float, float]] = []
        self.seed_time = 0.0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        of_seed = of_search = 0.0
        for batch in self.batches:
            started = time.process_time()
            self.step(*batch)
            ended = time.process_time()
            of_seed, self.seed_time = of_seed + ended - started, self.seed_time + ended - started
            yield batch
            of_search += time.process_time() - ended
        self.epochs.append((of_seed, of_search))

    @torch.enable_grad()  # statistics of norms are estimated without
    def step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="resnet8")
    parser.add_argument("--share", type=float, default=0.25, help="of the seed's MACs")
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--fall", type=float, help="share of the search after which limits are the wanted ones")
    parser.add_argument("--batches", type=int, default=16, help="of 64 samples, per epoch")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.fall is not None:
        importance.RANKING = replace(importance.RANKING, fall=options.fall)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, shape, classes = NETWORKS[options.network]
    seed = make()
    images = [torch.randn(64, *shape).contiguous(memory_format=torch.channels_last) for _ in range(options.batches)]
    batches = [(x, torch.randint(0, classes, (64,))) for x in images]
    macs = network_cost(seed, "macs", shape)
    for batch in batches[:3]:  # the first steps of a process are slow
        Paired(seed, []).step(*batch)
    loader, started = Paired(seed, batches), time.process_time()
    budget = {"macs": options.share * macs}
    found = nasopt.search(seed, loader, batches[:1], budget=budget, epochs=options.epochs, progress=False)
    whole = time.process_time() - started - loader.seed_time
    plain, steps = (sum(times) for times in zip(*loader.epochs, strict=True))
    print(f"{options.network}: {found.costs['macs']['found']:,} of {macs:,} MACs; seed {plain:.1f} s")
    print(f"steps of the search {steps / plain:.2f} of the seed's, everything {whole / plain:.2f}")
    for record, (of_seed, of_search) in zip(found.history, loader.epochs, strict=True):
        ratio = of_search / of_seed
        print(f"  epoch {record['epoch'] + 1} {record['phase']}: {ratio:.2f} of the seed's, {record['macs']:,} MACs")


if __name__ == "__main__":
    main()
