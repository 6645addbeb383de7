"""Quantisation-aware training, plain distillation and QKD's three phases in few bits, at equal epochs, on digits.

    python examples/lowbit_distillation.py --seeds 5

All start from the same float network, which is also the teacher. The student has fewer bits and, with `--train`, fewer images to
learn from. Two minutes on two cores.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from examples.lowbit_digits import SHAPE, accuracy, digits, mean_error, network, print_table, train
from nasopt import MixedPrecision, Precision
from nasopt.train import Distillation

# Shares of the epochs: self-study, co-study, tutoring
PHASES = {"QAT": (1.0, 0.0, 0.0), "distillation": (0.0, 0.0, 1.0), "QKD": (0.3, 0.4, 0.3)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 2])
    parser.add_argument("--train", type=int, default=1197, help="images to train on")
    parser.add_argument("--temperature", type=float, default=4.0)
    args = parser.parse_args()
    (x, y), test_data = digits()
    train_data = (x[: args.train], y[: args.train])
    found: dict[str, list[list[float]]] = {}
    for number in range(args.seeds):
        torch.manual_seed(number)
        seed = train(network(), train_data, 24, lr=1e-2)
        found.setdefault("float", []).append([accuracy(seed, test_data)] * len(args.bits))
        for name, shares in PHASES.items():
            row = []
            for bits in args.bits:
                model = MixedPrecision(seed, SHAPE, precision=Precision(weights=bits, activations=bits))
                model.calibrate([train_data[0][:256]])
                teacher = copy.deepcopy(seed)
                first, second = (round(args.epochs * share) for share in shares[:2])
                epochs = (first, second, args.epochs - first - second)
                study = Distillation(teacher, epochs, temperature=args.temperature)
                own = torch.optim.Adam(teacher.parameters(), lr=3e-4)

                def loss(out: Tensor, x: Tensor, y: Tensor, study: Distillation = study) -> Tensor:
                    return study.loss(out, x, y)

                def teach(
                    x: Tensor,
                    y: Tensor,
                    study: Distillation = study,
                    model: nn.Module = model,
                    own: torch.optim.Optimizer = own,
                ) -> None:
                    study.teach(model, x, y, own)

                together = range(first, first + second)
                options: dict[str, Any] = {"loss": loss, "on_epoch": study.set_epoch, "after_step": teach}
                train(model, train_data, args.epochs, rate=lambda e, t=together: 0.1 if e in t else 1.0, **options)  # type: ignore[misc]
                row.append(accuracy(model, test_data))
            found.setdefault(name, []).append(row)
    rows = [
        [name, *(mean_error([row[i] for row in values]) for i in range(len(args.bits)))]
        for name, values in found.items()
    ]
    print_table(["training", *(f"{bits} bits" for bits in args.bits)], rows)


if __name__ == "__main__":
    main()
