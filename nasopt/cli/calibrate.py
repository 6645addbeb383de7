"""The command `nasopt calibrate`: a target for a board, from timings, a table of layers or a profile."""

from __future__ import annotations

import argparse
from pathlib import Path

from nasopt.cli.models import input_shape, load_model, load_target
from nasopt.cost import target_from_profile, target_from_table, target_from_timings, target_names
from nasopt.cost.target_file import describe_prices, write_target
from nasopt.cost.targets.registry import check_new_name
from nasopt.errors import ConfigError


def add_calibrate(parser: argparse.ArgumentParser) -> None:
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


def calibrate(options: argparse.Namespace) -> str:
    ways = [bool(options.timing), options.table is not None, options.profile is not None]
    if sum(ways) != 1:
        raise ConfigError("calibrate: give --timing (once or more), --table or --profile: one of the three")
    if options.ticks is not None and options.profile is None:
        raise ConfigError("calibrate: --ticks is the clock of a --profile: leave it out")
    if options.output is not None:
        check_new_name(options.name, target_names())
    like = load_target(options.like)
    if options.table is not None:
        target = target_from_table(options.table, options.name, options.clock, like=like)
    elif options.profile is not None:
        model, shape, path = options.profile
        target = target_from_profile(
            load_model(model),
            input_shape(shape),
            Path(path),
            options.clock,
            like,
            options.name,
            options.ticks,
        )
    else:
        timings = [(load_model(model), input_shape(shape), _ms(ms)) for model, shape, ms in options.timing]
        target = target_from_timings(timings, like, options.clock, options.name)
    text = describe_prices(target)
    if options.output is not None:
        write_target(target, options.output)
        text += (
            f"\n\n{options.output} written: import it, and {target.name!r} is a target; or give the file as --target"
        )
    return text


def _ms(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--timing: {text!r} is no time: give milliseconds, like 41.5") from None
