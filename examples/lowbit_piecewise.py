"""Levels that follow the distribution of weights (PA-Net) against evenly spaced ones, on digits.

    python examples/lowbit_piecewise.py --seeds 5

Inner layers: piecewise weights on M levels and zero, activations on N, or 2, 3 and 4 bits of uniform grids with learned steps.
All start from one float network per seed. Bits per weight: planes as the packed kernels hold them, and the least that an index
takes. Two minutes on two cores.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from examples.lowbit_digits import SHAPE, accuracy, digits, mean_error, network, print_table, train
from nasopt import MixedPrecision, Precision
from nasopt.nn import PAActivation, PAConv2d

INNER = (3, 6, 9)


def piecewise(seed: nn.Sequential, m: int, n: int) -> nn.Sequential:
    """The inner convolutions on M levels, what they read on N."""
    layers: list[nn.Module] = []
    for index, layer in enumerate(seed):
        if index in INNER and isinstance(layer, nn.Conv2d):
            layers.append(PAConv2d.from_conv(layer, m))
        else:
            layers.append(PAActivation(n) if index + 1 in INNER else layer)
    return nn.Sequential(*layers)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--width", type=int, default=6)
    args = parser.parse_args()
    train_data, test_data = digits()
    found: dict[str, list[float]] = {}
    planes = {f"uniform, {bits} bits": (bits, bits) for bits in (2, 3, 4)}
    for number in range(args.seeds):
        torch.manual_seed(number)
        seed = train(network(args.width), train_data, 12, lr=1e-2)
        state = seed.state_dict()
        found.setdefault("float", []).append(accuracy(seed, test_data))
        for bits in (2, 3, 4):
            inner = dict.fromkeys([str(i) for i in INNER], bits)
            values = dict.fromkeys([str(i - 3) for i in INNER], bits)
            wanted = Precision(weights={**inner, "*": 32}, activations={**values, "*": 32}, inputs=32)
            model = MixedPrecision(seed, SHAPE, precision=wanted)
            model.calibrate([train_data[0][:256]])
            train(model, train_data, args.epochs)
            found.setdefault(f"uniform, {bits} bits", []).append(accuracy(model, test_data))
        for m, n in ((4, 3), (4, 4), (8, 7)):
            fresh: nn.Sequential = network(args.width)
            fresh.load_state_dict(state)
            model = train(piecewise(fresh, m, n), train_data, args.epochs)
            name = f"piecewise, M = {m}, N = {n}"
            planes[name] = (m, math.ceil(math.log2(m + 1)))
            found.setdefault(name, []).append(accuracy(model, test_data))
    rows = [[name, *map(str, planes.get(name, (32, 32))), mean_error(values)] for name, values in found.items()]
    print_table(["inner layers", "bits per weight, planes", "as indices", "accuracy [%]"], rows)


if __name__ == "__main__":
    main()
