"""QKD's three phases against training in few bits without a teacher and against distillation alone, at equal epochs.

    NASOPT_DATA=... python -m benchmarks.distillation                # ResNet-8 on 3,000 images of 16x16
    python -m benchmarks.distillation --task kws --pretrain 24       # DS-CNN on spoken digits

A seed trains a float network, from which every run starts, and a teacher of twice its width (`--teacher-width 0`: the float
network itself); all runs train equally many epochs in the same order of samples. Adam; rates fall to 0 along half a cosine, in
QKD in every phase. Accuracy of the last epoch on all test samples, means with standard errors over seeds, and differences to
training without a teacher, paired by seed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from benchmarks.arena.contestants import NARROW
from benchmarks.precision_accuracy import BATCH, FLOAT_LR, LR, Experiment, mean_and_error
from benchmarks_mlperf_tiny.networks import set_norm_momentum
from nasopt import MixedPrecision, Precision
from nasopt.train import Distillation

# Shares of the epochs: self-study, co-study, tutoring
PHASES = {
    "QAT": (1.0, 0.0, 0.0),
    "distillation": (0.0, 0.0, 1.0),
    "QKD": (0.25, 0.25, 0.5),
    "QKD, more tutoring": (0.125, 0.125, 0.75),
}


def make_teacher(experiment: Experiment, options: argparse.Namespace) -> nn.Module:
    """A trained float network so many times as wide; the one that runs start from where that is 0."""
    if not options.teacher_width:
        return experiment.start
    torch.manual_seed(experiment.seed)
    teacher: Any = NARROW[options.task](experiment.data.num_classes, options.teacher_width)
    if isinstance(getattr(teacher, "pool", None), nn.AvgPool2d):
        teacher.pool = copy.deepcopy(experiment.start.pool)
    set_norm_momentum(teacher, 0.1)
    kept = options.out / f"{options.task}-teacher-{experiment.seed}.pt"
    if kept.exists():
        teacher.load_state_dict(torch.load(kept, weights_only=True))
    else:
        experiment.train(teacher, teacher, options.pretrain, [{"params": teacher.parameters(), "lr": FLOAT_LR}])
        torch.save(teacher.state_dict(), kept)
    return teacher


def run(
    experiment: Experiment, teacher: nn.Module, shares: tuple[float, float, float], options: argparse.Namespace
) -> float:
    """Accuracy of a student in [0, 1]; the teacher learns in co-study."""
    bits, epochs = options.bits, options.epochs
    torch.manual_seed(experiment.seed)
    student: Any = MixedPrecision(experiment.start, experiment.shape, precision=Precision(bits, bits))
    student.calibrate([next(experiment.batches(0))])
    first, second = (round(epochs * share) for share in shares[:2])
    study = Distillation(
        teacher,
        (first, second, epochs - first - second),
        temperature=options.temperature,
        share=options.share,
        rates=(1.0, options.co_rate, 1.0),
    )
    optimizer = torch.optim.Adam(student.parameters(), lr=LR)
    own = torch.optim.Adam(teacher.parameters(), lr=LR)
    steps = experiment.data.train.steps(BATCH)
    for epoch in range(epochs):
        student.train()
        for step, (x, y) in enumerate(experiment.batches(epoch)):
            rate = study.annealed_rate(step / steps)
            for one, start in ((optimizer, LR), (own, options.teacher_lr)):
                one.param_groups[0]["lr"] = start * rate
            optimizer.zero_grad()
            study.loss(student(x), x, y).backward()
            optimizer.step()
            study.teach(student, x, y, own)
        study.step()
    return experiment.accuracy(student)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder in which float networks are kept; default: none")
    parser.add_argument("--task", choices=["ic", "kws"], default="ic")
    parser.add_argument("--runs", nargs="+", choices=list(PHASES), default=list(PHASES))
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=3000, help="for training, of 12,000; there are 2,400 words")
    parser.add_argument("--size", type=int, default=16, help="side of the images, up to 32")
    parser.add_argument(
        "--teacher-width", type=float, default=2.0, help="times the student's; 0: the float network itself"
    )
    parser.add_argument("--pretrain", type=int, default=16, help="epochs of the float network and of the teacher")
    parser.add_argument("--epochs", type=int, default=8, help="of every run from there")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--temperature", type=float, default=4.0)
    parser.add_argument("--share", type=float, default=0.7, help="of the teacher in the loss")
    parser.add_argument("--co-rate", type=float, default=0.3, help="learning rate of co-study over the others'")
    parser.add_argument("--teacher-lr", type=float, default=1e-4, help="learning rate of the teacher in co-study")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        options.out = options.out or Path(folder)
        options.out.mkdir(parents=True, exist_ok=True)
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            experiment = Experiment(options.task, seed, options)
            found.setdefault("float", []).append(100 * experiment.accuracy(experiment.start))
            teacher = make_teacher(experiment, options)
            found.setdefault("teacher", []).append(100 * experiment.accuracy(teacher))
            for name in options.runs:
                own = copy.deepcopy(teacher)
                found.setdefault(name, []).append(100 * run(experiment, own, PHASES[name], options))
                if PHASES[name][1]:
                    found.setdefault(f"teacher after {name}", []).append(100 * experiment.accuracy(own))
            print(f"seed {seed}:", {name: round(values[-1], 2) for name, values in found.items()}, flush=True)
    print(f"| {options.epochs} epochs, {options.bits} bits | accuracy [%] | against QAT [points] | seeds |")
    print("| --- | ---: | ---: | --- |")
    for name, values in found.items():
        paired = [a - b for a, b in zip(values, found.get("QAT", values))]
        error = f" ({statistics.stdev(paired) / len(paired) ** 0.5:.2f})" if len(paired) > 1 else ""
        each = ", ".join(f"{value:.2f}" for value in values)
        print(f"| {name} | {mean_and_error(values)} | {statistics.mean(paired):+.2f}{error} | {each} |")


if __name__ == "__main__":
    main()
