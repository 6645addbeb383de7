"""The command `nasopt`: what a model costs, which targets there are, and a target from measurements.

nasopt cost package.module:factory --input 3,32,32 --target cortex_m4 --target gap8
nasopt targets --match nrf
nasopt calibrate --clock 64 --timing package.module:net 3,32,32 41.5 --timing package.module:other 1,49,10 12.2
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from nasopt.cost import (
    chip_names,
    cost_report,
    get_target,
    target_from_profile,
    target_from_table,
    target_from_timings,
    target_names,
)
from nasopt.cost.report import align
from nasopt.cost.target_file import describe_prices, write_target
from nasopt.errors import ConfigError, NasoptError, nearest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, or 2 after an error that the user can cure."""
    parser = argparse.ArgumentParser(prog="nasopt", description="Costs of networks on microcontrollers.")
    commands = parser.add_subparsers(dest="command", required=True)
    cost = commands.add_parser("cost", help="what a model costs, layer by layer")
    cost.add_argument("model", help="package.module:name of a function that builds the model, or of the model itself")
    cost.add_argument(
        "--input", action="append", required=True, metavar="3,32,32", help="shape of one sample; repeat for more inputs"
    )
    cost.add_argument("--target", action="append", default=[], help="an embedded target; repeat for more")
    cost.add_argument("--runtime", help="an inference engine: does the network fit the targets in it?")
    cost.add_argument("--format", choices=("text", "csv", "json"), default="text")
    targets = commands.add_parser("targets", help="embedded targets: clock, memory, power, and where they come from")
    targets.add_argument("--match", default="", metavar="nrf", help="only those whose name or summary holds this")
    _add_calibrate(commands.add_parser("calibrate", help="a target for your board, from timings, layers or a profile"))
    options = parser.parse_args(arguments)
    run = {"cost": _cost, "targets": lambda options: _targets(options.match), "calibrate": _calibrate}
    try:
        print(run[options.command](options))
    except NasoptError as error:
        print(f"nasopt: {error}", file=sys.stderr)
        return 2
    return 0


def _cost(options: argparse.Namespace) -> str:
    shapes = [_input_shape(text) for text in options.input]
    targets = [get_target(name) for name in options.target]
    model = load_model(options.model)
    report = cost_report(model, shapes[0] if len(shapes) == 1 else shapes, targets=targets, runtime=options.runtime)
    if options.format == "csv":
        return report.csv().rstrip("\n")
    return report.json() if options.format == "json" else str(report)


def _input_shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.replace("x", ",").split(","))
    except ValueError:
        raise ConfigError(f"--input is {text!r}: give the shape of one sample, without batch, like 3,32,32") from None


def load_model(where: str) -> nn.Module:
    """The model at `package.module:name`; the current folder is searched, too.

    Raises:
        ConfigError: there is no such module or name, or it is no model and builds none.
    """
    module_name, colon, name = where.partition(":")
    if not colon or not name:
        raise ConfigError(f"{where!r} does not say which model: write package.module:name, like my_nets.small:build")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{where!r}: {module_name} cannot be imported: {error}. Run from the folder it is in"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            known = [key for key in vars(found) if not key.startswith("_")]
            raise ConfigError(f"{where!r}: {module_name} has no {part!r}.{nearest(part, known)}")
        found = getattr(found, part)
    if not isinstance(found, nn.Module) and callable(found):
        try:
            found = found()
        except TypeError as error:
            raise ConfigError(
                f"{where!r} cannot be called without arguments: {error}. Name a function that can"
            ) from error
    if not isinstance(found, nn.Module):
        raise ConfigError(
            f"{where!r} is a {type(found).__name__}: name a torch.nn.Module, or a function that builds one"
        )
    return found


def _targets(match: str = "") -> str:
    rows = [["target", "", "MHz", "RAM kB", "flash kB", "mW"]]
    notes = []
    matching = [get_target(name) for name in [*target_names(), *chip_names()]]
    matching = [target for target in matching if match.lower() in f"{target.name} {target.summary}".lower()]
    if not matching:
        raise ConfigError(
            f"no target matches {match!r}: `nasopt targets` lists all {len(target_names())} and the chips"
        )
    for target in matching:
        name = target.name
        sizes = [f"{size // 1024:,}" if size else "-" for size in (target.ram_bytes, target.flash_bytes)]
        power = f"{target.active_power_mw:g}" if target.active_power_mw else "-"
        rows.append([name, target.summary, f"{target.clock_mhz:g}", *sizes, power])
        notes.append(f"{name}: {target.provenance}")
    return "\n".join([*align(rows, left=2), "", *notes])


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clock", type=float, required=True, metavar="MHZ", help="of the board")
    parser.add_argument("--like", default="cortex_m4", help="the shipped target whose price ratios it starts from")
    parser.add_argument("--name", default="my_board")
    parser.add_argument(
        "--timing",
        nargs=3,
        action="append",
        default=[],
        metavar=("MODEL", "INPUT", "MS"),
        help="a timed network; repeat",
    )
    parser.add_argument("--table", help="or: a CSV file of measured layers")
    parser.add_argument(
        "--profile", nargs=3, metavar=("MODEL", "INPUT", "FILE"), help="or: what a profiler printed for a network"
    )
    parser.add_argument("--ticks", type=float, metavar="MHZ", help="clock of the profiler's ticks")
    parser.add_argument("--output", help="a new Python file that registers the target when it is imported")


def _calibrate(options: argparse.Namespace) -> str:
    ways = [bool(options.timing), options.table is not None, options.profile is not None]
    if sum(ways) != 1:
        raise ConfigError("calibrate: give --timing (once or more), --table or --profile: one of the three")
    if options.table is not None:
        target = target_from_table(options.table, options.name, options.clock, like=options.like)
    elif options.profile is not None:
        model, shape, path = options.profile
        target = target_from_profile(
            load_model(model),
            _input_shape(shape),
            Path(path),
            options.clock,
            options.like,
            options.name,
            options.ticks,
        )
    else:
        timings = [(load_model(model), _input_shape(shape), _ms(ms)) for model, shape, ms in options.timing]
        target = target_from_timings(timings, options.like, options.clock, options.name)
    text = describe_prices(target)
    if options.output:
        write_target(target, options.output)
        text += f"\n\n{options.output} written: import it, and {target.name!r} is a target"
    return text


def _ms(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--timing: {text!r} is no time: give milliseconds, like 41.5") from None
