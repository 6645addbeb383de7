"""Binary weights four ways on digits, with norm statistics as they come out of the training and re-estimated.

    python examples/lowbit_binary.py --seeds 5

Inner layers have weights of one bit and a float scale per channel, or one of 9 bits per kernel, which makes two bits per weight;
all else is float. Statistics belong to the weights that a network was trained with: where signs replace these only afterwards,
most of what a method seems to be worth is statistics. Two minutes on two cores.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

import nasopt
from examples.lowbit_digits import SHAPE, accuracy, batches, digits, mean_error, network, print_table, train
from nasopt import MixedPrecision, Precision
from nasopt.ste import binary_weight
from nasopt.train import AngleRegularizer, ScaledLevels, SphereConstrained

INNER = ("3", "6", "9")
BY_KERNEL = ScaledLevels(bits=1, granularity="kernel", scale_bits=9)
BITS = Precision(weights={**dict.fromkeys(INNER, 1), "*": 32}, activations=32, inputs=32)


def binary(model: nn.Module) -> MixedPrecision:
    """Inner weights become signs with a scale per channel."""
    return MixedPrecision(model, SHAPE, precision=BITS)


def by_kernel(model: nn.Module) -> nn.Module:
    """Inner weights become signs with a scale of 9 bits per kernel."""
    for name in INNER:
        parametrize.register_parametrization(model.get_submodule(name), "weight", BY_KERNEL)
    return model


def on_spheres(model: MixedPrecision) -> SphereConstrained:
    """Filters of inner layers keep unit length; norms behind them make up for it."""
    weights = [model.net.get_submodule(name).get_parameter("weight") for name in INNER]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    constrained = SphereConstrained(optimizer, weights)
    for name in INNER:
        model.net.get_submodule(name).fit_steps()  # type: ignore[operator]
    return constrained


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()
    train_data, test_data = digits()
    found: dict[str, list[list[float]]] = {}

    def note(name: str, model: nn.Module) -> None:
        as_is = accuracy(model, test_data)
        nasopt.recalibrate(model, [x for x, _ in batches(train_data)])
        found.setdefault(name, []).append([as_is, accuracy(model, test_data)])

    for number in range(args.seeds):
        torch.manual_seed(number)
        seed = train(network(), train_data, 10, lr=1e-2)
        note("float", copy.deepcopy(seed))
        further = train(copy.deepcopy(seed), train_data, args.epochs)
        note("float training, then signs", binary(copy.deepcopy(further)))
        note("float training, then signs by kernel", by_kernel(further))
        for name, quantizer, granularity, rounded in (
            ("APSQ, then signs", binary_weight, "channel", binary),
            ("APSQ, then signs by kernel", BY_KERNEL, "kernel", by_kernel),
        ):
            model = copy.deepcopy(seed)
            angle = AngleRegularizer(model, dict.fromkeys(INNER, quantizer), granularity, growth=1.3)  # type: ignore[arg-type]
            train(model, train_data, args.epochs, penalty=angle, on_epoch=lambda epoch, a=angle: epoch and a.grow())  # type: ignore[misc]
            note(name, rounded(model))
        note("plain binary training", train(binary(copy.deepcopy(seed)), train_data, args.epochs))
        note("plain binary training by kernel", train(by_kernel(copy.deepcopy(seed)), train_data, args.epochs))
        constrained: Any = binary(copy.deepcopy(seed))
        train(constrained, train_data, args.epochs, optimizer=on_spheres(constrained))
        note("binary training on spheres", constrained)
    rows = [[name, *(mean_error([pair[i] for pair in values]) for i in (0, 1))] for name, values in found.items()]
    print_table(["inner weights", "as trained", "re-estimated"], rows)


if __name__ == "__main__":
    main()
