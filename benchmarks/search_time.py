"""Prints the processor time of a whole search, with shrinking, over that of training the seed for as many epochs.

    python benchmarks/search_time.py --network resnet8 --share 0.25

Random data, so that no time is spent on loading; `nasopt.search` to a share of the seed's MACs, 2/9 warm-up, 4/9 search, 1/3
fine-tuning. Steps alone are compared, and everything: norm statistics, the val split, shrinking, export.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

import nasopt
from benchmarks_mlperf_tiny.networks import ds_cnn, resnet8
from nasopt.cost import network_cost

NETWORKS = {"resnet8": (lambda: resnet8(10), (3, 32, 32), 10), "ds_cnn": (lambda: ds_cnn(12), (1, 49, 10), 12)}


def train(seed: nn.Module, batches: list[tuple[Tensor, Tensor]], epochs: int) -> float:
    """Processor time of the seed's steps [s]."""
    model = copy.deepcopy(seed).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    started = time.process_time()
    for x, y in batches * epochs:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="resnet8")
    parser.add_argument("--share", type=float, default=0.25, help="of the seed's MACs")
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--batches", type=int, default=16, help="of 64 samples, per epoch")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, shape, classes = NETWORKS[options.network]
    seed = make()
    batches = [(torch.randn(64, *shape), torch.randint(0, classes, (64,))) for _ in range(options.batches)]
    macs = network_cost(seed, "macs", shape)
    train(seed, batches[:4], 1)
    plain = train(seed, batches, options.epochs)
    started = time.process_time()
    clock = time.process_time
    time.monotonic, real = clock, time.monotonic  # steps in processor time, too
    budget = {"macs": options.share * macs}
    found = nasopt.search(seed, batches, batches[:1], budget=budget, epochs=options.epochs, progress=False)
    time.monotonic = real
    whole = time.process_time() - started
    steps = sum(record["seconds"] for record in found.history)
    print(f"{options.network}: {found.costs['macs']['found']:,} of {macs:,} MACs; seed {plain:.1f} s")
    print(f"steps of the search {steps / plain:.2f} of the seed's, everything {whole / plain:.2f}")
    for record in found.history:
        share = record["seconds"] / plain * options.epochs
        print(f"  epoch {record['epoch'] + 1} {record['phase']}: {share:.2f} of the seed's, {record['macs']:,} MACs")


if __name__ == "__main__":
    main()
