"""One set of weights for four widths against four networks of their own, on digits: what switches, norms and teaching are worth.

    python examples/lowbit_switchable.py --seeds 3

All start from one float network per seed and train equally many epochs. Inner layers have 8, 4, 2 and 1 bits for weights and 8,
4, 2 and 2 for activations; first and last layers have 8. Three minutes on two cores.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

import nasopt
from examples.lowbit_digits import SHAPE, accuracy, batches, digits, mean_error, network, print_table, train
from nasopt import MixedPrecision, Precision, Switchable

SWITCHES = [(8, 8), (4, 4), (2, 2), (1, 2)]
ALL = Precision(weights=(1, 2, 4, 8), activations=(2, 4, 8))


def switchable(
    seed: torch.nn.Module, data: tuple[torch.Tensor, torch.Tensor], epochs: int, **options: object
) -> Switchable:
    """Trained with all switches in every step."""
    model = MixedPrecision(seed, SHAPE, precision=ALL)
    model.calibrate([data[0][:256]])
    both = Switchable(model, SWITCHES, **options).train()  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(both.param_groups(lr=3e-3))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for x, y in batches(data):
            optimizer.zero_grad()
            both.backward(x, y)
            optimizer.step()
        schedule.step()
    return both


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    train_data, test_data = digits()
    columns = ["independent", "private", "private, no teaching", "shared", "shared, re-estimated"]
    found: dict[tuple[str, int], list[float]] = {}
    for number in range(args.seeds):
        torch.manual_seed(number)
        seed = train(network(), train_data, 12, lr=1e-2)
        for i, (weights, activations) in enumerate(SWITCHES):
            alone = MixedPrecision(seed, SHAPE, precision=Precision(weights=weights, activations=activations))
            alone.calibrate([train_data[0][:256]])
            train(alone, train_data, args.epochs)
            found.setdefault((columns[0], i), []).append(accuracy(alone, test_data))
        for name, options in (
            ("private", {}),
            ("private, no teaching", {"distil": False}),
            ("shared", {"norms": "shared"}),
        ):
            both = switchable(copy.deepcopy(seed), train_data, args.epochs, **options)
            for i, switch in enumerate(SWITCHES):
                both.use(switch)
                found.setdefault((name, i), []).append(accuracy(both, test_data))
            for i, switch in enumerate(SWITCHES if name == "shared" else []):
                nasopt.recalibrate(both.use(switch), [x for x, _ in batches(train_data)])
                found.setdefault((columns[4], i), []).append(accuracy(both, test_data))
    rows = [[f"{w} / {a} bits", *(mean_error(found[name, i]) for name in columns)] for i, (w, a) in enumerate(SWITCHES)]
    print_table(["weights / activations", *columns], rows)


if __name__ == "__main__":
    main()
