"""Arena: ways to make a network smaller, at equal data, epochs, optimiser, augmentation and seeds of randomness.

    NASOPT_DATA=... python -m benchmarks.arena --quick                  # two limits, two seeds, few epochs
    NASOPT_DATA=... python -m benchmarks.arena --task ic --data cifar10_subset --seeds 0,1,2 --out results/arena.csv
    python -m benchmarks.arena --out results/arena.csv --report --plot arena.png    # what is there already
    python -m benchmarks.arena --command "other=python train_other.py {task} {data} {limit} {seed}"

Every contestant gets a limit on the size, a share of the seed network's weights, and the same number of epochs in all:

| name | what it is |
| --- | --- |
| `uniform` | the widest network of the seed's shape within the limit, every layer scaled alike |
| `pit` | channels and kernels by masks, under a `Budget` |
| `importance`, `importance_channels` | the same with masks set by rank under a falling limit (`Budget(steps=)`); channels alone |
| `importance:fall=0.5:power=1` | the same with other settings of `nasopt.search.importance.Ranking` |
| `supernet` | one of several layers at each place, under a `Budget` |
| `pit_supernet`, `importance_supernet` | both at once, under a `Budget` |
| `sequential` | branches in the first half of the search, under a looser `Budget`, then masks by importance |
| `taylor` | Torch-Pruning: Taylor importance, global, a piece after every epoch of the search (`pip install torch-pruning`) |
| `black_box` | `prune_quantised`: ranked without data, ratios by Bayesian optimisation, after every epoch of the search |
| `NAME=COMMAND` | any other: the command gets the setting and prints JSON with `size` and `test` as its last line |

The optimizer is Adam with the task's recipe: constant rate through warm-up and search, half a cosine to zero in fine-tuning.
`exported` is the test figure before fine-tuning, with norm statistics estimated again. One row per network goes to the CSV as
soon as it is there; rows that are there are not computed again. Hypervolume: of size over the seed's and test figure.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import csv
import itertools
import multiprocessing
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # this checkout, from wherever the script is started

from benchmarks.arena.contestants import KEYS, METHODS, NARROW, Bout, compete, method_of, ranking_of
from benchmarks.arena.report import report
from nasopt.errors import ConfigError

FIELDS = (*KEYS, "size", "macs", "exported", "test", "cpu_s", "note")


def read(path: Path) -> list[dict[str, str]]:
    """Rows that are there."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run(bouts: list[Bout], path: Path, jobs: int) -> None:
    """Everything that has no row with a network yet, each row written as it ends."""
    rows = [row for row in read(path) if row["test"]]  # what failed is tried again
    done = {tuple(row[key] for key in KEYS) for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting = [bout for bout in bouts if bout.key not in done]
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, FIELDS)
        table.writeheader()
        table.writerows(rows)  # type: ignore[arg-type]
        file.flush()
        with contextlib.ExitStack() as stack:
            rows_to_come: Iterable[dict[str, Any]] = map(compete, waiting)
            if jobs > 1:
                context = multiprocessing.get_context("spawn")
                pool = stack.enter_context(concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context))
                futures = concurrent.futures.as_completed([pool.submit(compete, bout) for bout in waiting])
                rows_to_come = (future.result() for future in futures)
            for row in rows_to_come:
                table.writerow(row)
                file.flush()
                result = row.get("note") or f"size {row['size']:,}, test {100 * row['test']:.2f} %"
                print(f"{row['method']} {row['share']} seed {row['seed']}: {result}, {row['cpu_s']} s", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.arena", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="ic", help=f"one of {', '.join(NARROW)}")
    parser.add_argument("--data", default="cifar10_subset", help="a data set of the task; default: cifar10_subset")
    parser.add_argument("--methods", default=",".join(METHODS), help="list; default: all")
    parser.add_argument("--command", action="append", default=[], metavar="NAME=COMMAND", help="another contestant")
    parser.add_argument("--shares", default="0.07,0.2,0.5", help="limits, as shares of the seed's size")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", default="8+16+12", metavar="W+S+F", help="of warm-up, search, fine-tuning")
    parser.add_argument(
        "--amp", action="store_true", help="compute in bfloat16 where that is safe, for all contestants"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes; default: 2")
    parser.add_argument("--out", type=Path, default=Path("results/arena.csv"))
    parser.add_argument("--quick", action="store_true", help="two shares, two seeds, 2+4+3 epochs")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    parser.add_argument("--plot", type=Path, help="write a picture")
    options = parser.parse_args(arguments)
    if options.quick:
        options.shares, options.seeds, options.epochs = "0.07,0.2", "0,1", "2+4+3"
    commands = dict(text.split("=", 1) for text in options.command)
    methods = [*filter(None, options.methods.split(",")), *commands]
    if unknown := [name for name in methods if method_of(name) not in METHODS and name not in commands]:
        parser.error(f"unknown methods {', '.join(unknown)}: known are {', '.join(METHODS)}, or give --command")
    for name in set(methods) - set(commands):
        try:
            ranking_of(name)
        except ConfigError as error:
            parser.error(str(error))
    what = (options.task, options.data, options.epochs)
    bouts = [
        Bout(*what, method, float(share), int(seed), commands.get(method, ""), options.amp)
        for seed, share, method in itertools.product(options.seeds.split(","), options.shares.split(","), methods)
    ]
    if not options.report:
        run(bouts, options.out, options.jobs)
    report(read(options.out), options.plot)


if __name__ == "__main__":
    main()
