"""Table over models that people use: does wrapping work, are search model and export the user's network, are MACs those of torch?

    python benchmarks/model_zoos.py [--zoo timm] [--models resnet18 test_vit] [--minutes 8]    # as far as it gets; go on: again
    python benchmarks/model_zoos.py --report > zoos.md                                         # the table of all that was run

Every model is built without pretrained weights, in eval mode, as a user would, and handled in a process of its own, so that
one that kills the interpreter is one row. Rows are kept in `results/model_zoos.jsonl`: models that are there are not run again.
Columns: whether `PIT` wraps it; whether the search model equals the seed in eval mode and in train mode (outputs and moved
statistics); whether a randomly cut export equals the search model; whether MACs are those of torch's flop counter, or which calls
have no price; seconds of processor time for wrapping with all its checks; share of the weights that is searchable. "-": the
model itself does not run in this mode; "warned": it returns something else in train mode, and a warning says so.
A library that is not installed is skipped with a word.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import sys
import time
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from benchmarks.zoo_models import BATCH, ZOOS, load_operators
from nasopt import PIT
from nasopt.errors import NasoptError, TraceWarning, UnpricedError
from nasopt.graph.composites import draws_otherwise
from nasopt.graph.state import copy_model

RESULTS = Path("results/model_zoos.jsonl")
SLOW = 5.0


@dataclass
class Row:
    """One model."""

    zoo: str
    name: str
    wraps: str = "no"
    evaluation: str = ""
    train: str = ""
    export: str = ""
    macs: str = ""
    seconds: float = 0.0
    searchable: float = 0.0
    note: str = ""

    @property
    def is_right(self) -> bool:
        """Whether what was wrapped is the user's network."""
        return all(answer in ("yes", "-", "warned") for answer in (self.evaluation, self.train, self.export))


def examine(zoo: str, name: str, size: int) -> Row:
    """Build, wrap, compare, cut and export one model."""
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    torch.backends.mha.set_fastpath_enabled(False)
    row = Row(zoo, name)
    seed, inputs = ZOOS[zoo][1](name, size)
    seed.eval()
    if draws_otherwise(seed):
        _without_dropout(seed)
    start = time.process_time()
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model = PIT(seed, input_example=inputs, regularizer="size")
    except NasoptError as error:
        row.wraps, row.note = "refused", f"{type(error).__name__}: {error}"
        row.seconds = time.process_time() - start
        return row
    row.wraps, row.seconds = "yes", time.process_time() - start
    space = model.search_space()
    row.searchable = space["searchable_weights"] / max(space["weights"], 1)
    row.macs = _macs(seed, model, inputs)
    reference = copy_model(seed)
    row.evaluation = _same(reference, model, inputs)
    model.train(), reference.train()
    row.train = _same(reference, model, inputs)
    if row.train not in ("yes", "-") and any(issubclass(one.category, TraceWarning) for one in said):
        row.train, row.note = "warned", str(next(one.message for one in said if issubclass(one.category, TraceWarning)))
    model.eval()
    with torch.no_grad():
        for parameter in model.arch_parameters():
            parameter.copy_(torch.rand_like(parameter) * 0.8 + 0.2)
    try:
        row.export = _same(model, model.arch_export(verify=False), inputs, statistics=False)
    except NasoptError as error:
        row.export, row.note = "fails", f"{type(error).__name__}: {error}"
    return row


def _without_dropout(model: nn.Module) -> None:
    """Opened attention draws in another order of memory: what is compared in train mode draws nothing."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0


def _macs(seed: nn.Module, model: Any, inputs: tuple[Any, ...]) -> str:
    """`"equal"`, how far they are apart, or what has no price."""
    try:
        found = model.get_cost("macs", discrete=True)
    except UnpricedError as error:
        names = str(error).partition("knows what ")[2].partition(" cost")[0]
        return f"unpriced: {names}"
    wanted = _counted(copy_model(seed), inputs)
    if found == wanted:
        return "equal"
    # Without what nobody reads, and without computing weights at every call.
    if found == _counted(model.arch_export(verify=False).eval(), inputs) < wanted:
        return "equal, less dead code"
    return f"{found / max(wanted, 1) - 1:+.2%}"


def _counted(module: nn.Module, inputs: tuple[Any, ...]) -> float:
    """MACs of one sample, by torch, which wants gradients where it tells modules apart."""
    one = pytree.tree_map_only(Tensor, lambda x: x[: len(x) // BATCH] if len(x) % BATCH == 0 else x, inputs)
    with FlopCounterMode(display=False) as counter, torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        module(*one)
    return counter.get_total_flops() / 2


def _same(wanted: nn.Module, found: nn.Module, inputs: tuple[Any, ...], statistics: bool = True) -> str:
    """`"yes"`, `"-"` where the wanted one does not run, the largest difference of the outputs, or the buffer that differs."""
    outputs = []
    for module in (wanted, found):
        torch.manual_seed(1)
        with torch.no_grad():
            try:
                made = pytree.tree_leaves(module(*pytree.tree_map_only(Tensor, torch.clone, inputs)))
            except Exception as error:
                return "-" if module is wanted else f"{type(error).__name__}: {str(error)[:80]}"
            outputs.append([leaf for leaf in made if isinstance(leaf, Tensor)])
    if [tuple(a.shape) for a in outputs[0]] != [tuple(b.shape) for b in outputs[1]]:
        return "other outputs"
    pairs = [(a.double(), b.double()) for a, b in zip(*outputs) if a.numel()]
    worst = max((float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in pairs), default=0.0)
    if not worst < 1e-3 and not all(
        torch.equal(a.isfinite(), b.isfinite()) and not a.isfinite().all() for a, b in pairs
    ):
        return f"{worst:.1e}"
    moved = dict(found.named_buffers())
    for name, buffer in wanted.named_buffers() if statistics else ():
        other = moved.get(f"net.{name}")
        if other is not None and not torch.allclose(buffer.double(), other.double(), rtol=1e-3, atol=1e-5):
            return f"state: {name}"
    return "yes"


def _work(connection: Any, zoo: str, name: str, size: int) -> None:
    try:
        row = examine(zoo, name, size)
    except Exception as error:
        row = Row(zoo, name, "error", note=f"{type(error).__name__}: {error}")
    connection.send(asdict(row))


def in_a_process(zoo: str, name: str, size: int, limit: float) -> Row:
    """The row of one model, whatever happens to the process."""
    context = multiprocessing.get_context("fork")
    mine, other = context.Pipe()
    process = context.Process(target=_work, args=(other, zoo, name, size))
    process.start()
    other.close()
    row = Row(zoo, name, "died")
    try:
        if mine.poll(limit):
            row = Row(**mine.recv())
        else:
            row = Row(zoo, name, "too slow", seconds=limit)
    except EOFError:
        pass
    process.kill()
    process.join()
    return row


def _is_installed(package: str) -> bool:
    try:
        load_operators()
        importlib.import_module(package)
    except Exception as error:
        print(f"{package} is left out: {type(error).__name__}: {error}")
        return False
    return True


def known_rows(path: Path = RESULTS) -> dict[tuple[str, str], Row]:
    """What has been run; the last row of a model counts."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [Row(**json.loads(line)) for line in lines]
    return {(row.zoo, row.name): row for row in rows}


def _line(row: Row) -> str:
    cells = (row.name, row.wraps, row.evaluation, row.train, row.export, row.macs[:60], f"{row.seconds:.1f}")
    note = " ".join(row.note.split())[:300].replace("|", "/")
    return "| " + " | ".join((*cells, f"{row.searchable:.0%}", note)) + " |"


def report(rows: Iterable[Row]) -> None:
    """One table per zoo, and the figures of all."""
    rows = list(rows)
    for zoo in dict.fromkeys(row.zoo for row in rows):
        print(f"\n| {zoo} | wraps | eval | train | export | MACs | wrap [s] | searchable | note |")
        print("| --- | --- | --- | --- | --- | --- | ---: | ---: | --- |")
        for row in rows:
            if row.zoo == zoo:
                print(_line(row))
    print(
        "\n| | models | wrap | right of these | refused | killed or failed | over 5 s | MACs equal | unpriced | searchable |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for zoo in (*dict.fromkeys(row.zoo for row in rows), "all"):
        own = [row for row in rows if zoo in (row.zoo, "all")]
        wrapped = [row for row in own if row.wraps == "yes"]
        refused = sum(row.wraps == "refused" for row in own)
        counts: list[Any] = [zoo, len(own), len(wrapped), sum(row.is_right for row in wrapped), refused]
        counts += [len(own) - len(wrapped) - refused, sum(row.seconds > SLOW for row in own)]
        counts += [
            sum(row.macs.startswith("equal") for row in own),
            sum(row.macs.startswith("unpriced") for row in own),
        ]
        counts.append(f"{sum(row.searchable for row in wrapped) / max(len(wrapped), 1):.0%}")
        print("| " + " | ".join(map(str, counts)) + " |")


def main() -> None:
    """Run what has not been run, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", choices=list(ZOOS), action="append")
    parser.add_argument("--models", nargs="+", help="names; these are run again")
    parser.add_argument("--again", action="store_true", help="run again what was not wrapped, differs, or was slow")
    parser.add_argument("--size", type=int, default=64, help="height and width, where a model takes any [pixel]")
    parser.add_argument("--limit", type=float, default=300, help="per model [s]")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no further model after these")
    parser.add_argument("--report", action="store_true", help="print the tables of what was run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known, start = known_rows(), time.monotonic()
    if options.report:
        order = {(zoo, name): i for i, (zoo, name) in enumerate((z, n) for z in ZOOS for n in ZOOS[z][2])}
        report(known[key] for key in sorted(known, key=lambda key: order.get(key, len(order))))
        return
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    for zoo in options.zoo or list(ZOOS):
        names = [
            name
            for name in options.models or ZOOS[zoo][2]
            if options.models
            or (zoo, name) not in known
            or (
                options.again
                and (
                    known[zoo, name].wraps != "yes" or not known[zoo, name].is_right or known[zoo, name].seconds > SLOW
                )
            )
        ]
        if not names or not _is_installed(ZOOS[zoo][0]):
            continue
        PIT(
            nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1)), (1, 2, 2)
        )  # what the first model of a process would import
        for name in names:
            if time.monotonic() - start > options.minutes * 60:
                print("more to do: run it again")
                return
            row = in_a_process(zoo, name, options.size, options.limit)
            with RESULTS.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
            print(_line(row), flush=True)


if __name__ == "__main__":
    main()
