"""Quantisation-aware training, plain distillation and QKD's three phases in few bits, at equal epochs, on digits.

    python examples/lowbit_distillation.py --seeds 3

All start from the same float network; the teacher is a float network of twice its width. Every phase of QKD anneals by itself.
With `--train` there are fewer images to learn from. Two minutes on two cores.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from examples.lowbit_digits import SHAPE, Data, accuracy, batches, digits, mean_error, network, print_table, train
from nasopt import MixedPrecision, Precision
from nasopt.train import Distillation

# Shares of the epochs: self-study, co-study, tutoring
PHASES = {"QAT": (1.0, 0.0, 0.0), "distillation": (0.0, 0.0, 1.0), "QKD": (0.25, 0.25, 0.5)}
LR, TEACHER_LR = 3e-3, 1e-3


def learn(student: nn.Module, study: Distillation, data: Data) -> None:
    """All phases; the teacher, which learns in the second one, is the study's own."""
    optimizer = torch.optim.Adam(student.parameters(), lr=LR)
    own = torch.optim.Adam(study.teacher.parameters(), lr=TEACHER_LR)
    steps = len(data[0]) // 64
    for _ in range(sum(study.epochs)):
        student.train()
        for step, (x, y) in enumerate(batches(data)):
            for one, lr in ((optimizer, LR), (own, TEACHER_LR)):
                one.param_groups[0]["lr"] = lr * study.annealed_rate(step / steps)
            optimizer.zero_grad()
            study.loss(student(x), x, y).backward()
            optimizer.step()
            study.teach(student, x, y, own)
        study.step()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 2])
    parser.add_argument("--train", type=int, default=1197, help="images to train on")
    parser.add_argument("--temperature", type=float, default=4.0)
    args = parser.parse_args()
    (x, y), test_data = digits()
    train_data = (x[: args.train], y[: args.train])
    found: dict[str, list[list[float]]] = {}
    for number in range(args.seeds):
        torch.manual_seed(number)
        seed, teacher = (train(network(width), train_data, 24, lr=1e-2) for width in (12, 24))
        for name, net in (("float", seed), ("float teacher, twice as wide", teacher)):
            found.setdefault(name, []).append([accuracy(net, test_data)] * len(args.bits))
        for name, shares in PHASES.items():
            row = []
            for bits in args.bits:
                model = MixedPrecision(seed, SHAPE, precision=Precision(weights=bits, activations=bits))
                model.calibrate([train_data[0][:256]])
                first, second = (round(args.epochs * share) for share in shares[:2])
                epochs = (first, second, args.epochs - first - second)
                study = Distillation(
                    copy.deepcopy(teacher), epochs, temperature=args.temperature, rates=(1.0, 0.3, 1.0)
                )
                learn(model, study, train_data)
                row.append(accuracy(model, test_data))
            found.setdefault(name, []).append(row)
    rows = [
        [name, *(mean_error([row[i] for row in values]) for i in range(len(args.bits)))]
        for name, values in found.items()
    ]
    print_table(["training", *(f"{bits} bits" for bits in args.bits)], rows)


if __name__ == "__main__":
    main()
