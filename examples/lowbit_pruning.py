"""Which channels of a quantised network to remove: by interaction, own angle, norm scale or at random, paired on 16 seeds.

    python examples/lowbit_pruning.py --seeds 16

A network of digits with inner weights of 1 bit (or `--bits`) loses a quarter of the channels of one layer; the table has the
mean loss in points over the layers, without and with re-estimated norm statistics, and the paired difference to removing at
random. Two minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

import nasopt
from examples.lowbit_digits import SHAPE, accuracy, batches, digits, mean_error, network, print_table, train
from nasopt import PIT, MixedPrecision, Precision
from nasopt.search.filter_scores import SCORES, filter_scores


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--bits", type=int, default=1)
    parser.add_argument("--ratio", type=float, default=0.25)
    args = parser.parse_args()
    train_data, test_data = digits()
    lost: dict[tuple[str, bool], list[float]] = {}
    for number in range(args.seeds):
        torch.manual_seed(number)
        seed = train(network(), train_data, args.epochs, lr=1e-2)
        model = MixedPrecision(seed, SHAPE, precision=Precision(weights=args.bits, activations=8))
        model.calibrate([train_data[0][:256]])
        found = train(model, train_data, args.epochs).arch_export()  # type: ignore[operator]
        search = PIT(found, SHAPE, kernel_search=False)
        search.freeze_arch(decided=True)
        before = accuracy(search, test_data)
        statistics = {name: buffer.clone() for name, buffer in search.named_buffers()}
        groups = search._prepared.decisions.masks.channels.unit_group
        for score in SCORES:
            scores = filter_scores(search, score)  # type: ignore[arg-type]
            drops: dict[bool, list[float]] = {False: [], True: []}
            for group in groups.unique().tolist():
                units = torch.nonzero(groups == group).reshape(-1)
                gone = units[scores[units].argsort(descending=True)][: int(args.ratio * len(units))]
                with torch.no_grad():
                    search.alpha.fill_(1.0)
                    search.alpha[gone] = 0.0
                drops[False].append(before - accuracy(search, test_data))
                nasopt.recalibrate(search, [x for x, _ in batches(train_data, 256)])
                drops[True].append(before - accuracy(search, test_data))
                for name, buffer in search.named_buffers():
                    buffer.copy_(statistics[name])
            for again, values in drops.items():
                lost.setdefault((score, again), []).append(sum(values) / len(values))
    rows = []
    for score in SCORES:
        row = [score]
        for again in (False, True):
            own, random = lost[score, again], lost["random", again]
            row += [mean_error(own), mean_error([a - b for a, b in zip(own, random)])]
        rows.append(row)
    head = ["ranked by", "points lost", "against random", "re-estimated: points lost", "against random"]
    print_table(head, rows)


if __name__ == "__main__":
    main()
