"""The command `nasopt search`: a search of a model on loaders of your own; structure and weights in a folder."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from nasopt.arguments import check_number, short
from nasopt.cli.config_file import add_config_options, count
from nasopt.cli.models import load_model, load_object
from nasopt.cost import get_metric
from nasopt.errors import ConfigError, nearest
from nasopt.methods import PIT, PITSuperNet
from nasopt.search.precision import Precision
from nasopt.searching import SearchResult, search
from nasopt.tables import align, figure

_METHODS = {"pit": PIT, "pit_supernet": PITSuperNet}


def add_search(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("model", help="file.py:name of a function that builds the seed, or of the model itself")
    for name, what in (("train", "training"), ("val", "validation, other samples")):
        parser.add_argument(
            f"--{name}", required=True, metavar="FILE.py:NAME", help=f"loader for {what}, or a function that makes it"
        )
    parser.add_argument(
        "--budget",
        action="append",
        required=True,
        metavar="METRIC=LIMIT",
        help="size=15000, or macs=1e6,latency_ms:cortex_m4=30",
    )
    parser.add_argument("--epochs", required=True, help="of everything, or warm-up,search,fine-tuning like 8,16,12")
    parser.add_argument("--method", default="pit", help=f"one of {', '.join(_METHODS)}; default: pit")
    parser.add_argument("--precision", help="bits of weights and activations: 8, w4a8, or mixed: widths are searched")
    parser.add_argument("--lr", type=float, help="of the weights; default: that of nasopt.search")
    parser.add_argument("--patience", type=count, metavar="EPOCHS", help="end fine-tuning after so many without gain")
    parser.add_argument("--seed", type=int, default=0, help="of weights and randomness; default: 0")
    parser.add_argument("--threads", type=count, help="threads of torch; default: torch's own")
    parser.add_argument("--output", type=Path, default=Path("found"), metavar="FOLDER", help="default: found")
    parser.add_argument("--quiet", action="store_true", help="no line per epoch")
    add_config_options(parser)


def run_search(options: argparse.Namespace) -> str:
    """Search, write `found.json`, `found.pt` and the checkpoint; returns a table of costs.

    Raises:
        ConfigError: an argument cannot be used; nothing has been trained then.
    """
    if options.method not in _METHODS:
        raise ConfigError(
            f"--method {options.method!r}: known are {', '.join(_METHODS)}.{nearest(options.method, _METHODS)}"
        )
    if not 0 <= options.seed < 2**63:
        raise ConfigError(f"--seed {options.seed}: give a whole number from 0 to 2**63 - 1")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    more: dict[str, Any] = {} if options.lr is None else {"lr": check_number("--lr", options.lr, above=0)}
    precision = None if options.precision is None else Precision.parse(options.precision)
    folder: Path = options.output
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--output {short(str(folder))} cannot be made a folder: {reason}") from error
    torch.manual_seed(options.seed)
    result = search(
        load_model(options.model),
        _loader(options.train, "--train"),
        _loader(options.val, "--val"),
        budget=_budget(options.budget),
        epochs=_epochs(options.epochs),
        method=_METHODS[options.method],
        precision=precision,
        patience=options.patience,
        checkpoint=folder / "checkpoint.pt",
        progress=not options.quiet,
        **more,
    )
    _replace(folder / "found.json", json.dumps(result.structure, indent=1).encode())
    with tempfile.TemporaryFile() as draft:
        torch.save(result.network.state_dict(), draft)
        draft.seek(0)
        _replace(folder / "found.pt", draft.read())
    return _table(result, folder)


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_bytes(content)
    os.replace(draft, path)


def _table(result: SearchResult, folder: Path) -> str:
    rows: list[tuple[str, ...]] = [("cost", "seed", "found", "limit")]
    for name, cost in result.costs.items():
        unit = get_metric(name).unit
        rows.append((name, *(figure(cost[key], unit) for key in ("seed", "found", "limit"))))
    files = f"{folder / 'found.json'} (structure), {folder / 'found.pt'} (weights): nasopt.restore, nasopt export"
    return "\n".join([*align(rows, left=1), f"val {result.val:.4f}", files])


def _loader(where: str, option: str) -> Any:
    found = load_object(where)
    if not hasattr(found, "__iter__") and callable(found):
        try:
            found = found()
        except Exception as error:
            raise ConfigError(f"{option} {where!r} fails: {type(error).__name__}: {error}") from error
    return found


def _budget(texts: list[str]) -> dict[str, float]:
    limits: dict[str, float] = {}
    for part in ",".join(texts).split(","):
        name, equals, number = (word.strip() for word in part.rpartition("="))
        try:
            value = float(number)
        except ValueError:
            raise ConfigError(f"--budget {part!r}: give METRIC=LIMIT, like size=15000") from None
        if not equals or name in limits:
            raise ConfigError(f"--budget {part!r}: {'it is limited twice' if equals else 'give METRIC=LIMIT'}")
        limits[name] = value
    return limits


def _epochs(text: str) -> int | tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--epochs {text!r}: give a number, or three like 8,16,12") from None
    return numbers[0] if len(numbers) == 1 else numbers
