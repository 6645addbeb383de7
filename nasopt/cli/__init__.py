"""The command `nasopt`: what a model costs and what of it can be searched, targets, files for runtimes.

nasopt cost my_nets.py:build --input 3,32,32 --target cortex_m4 --target gap8
nasopt cost my_nets.py:build --input 3,32,32 --lint
nasopt explain my_nets.py:build --input 3,32,32
nasopt search my_nets.py:build --train my_nets.py:train --val my_nets.py:val --budget size=15000 --epochs 36
nasopt targets --match nrf
nasopt calibrate --clock 64 --timing my_nets.py:net 3,32,32 41.5 --timing my_nets.py:other 1,49,10 12.2
nasopt export my_nets.py:build --structure found.json --weights found.pt --input 3,32,32 --output found.onnx
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from nasopt.cli.calibrate import add_calibrate, calibrate
from nasopt.cli.config_file import parse_with_config, print_config
from nasopt.cli.export import add_export, export
from nasopt.cli.models import input_shape, load_model, load_target
from nasopt.cli.search import add_search, run_search
from nasopt.cost import CostReport, LintReport, chip_names, cost_report, get_target, lint, target_names
from nasopt.cost.targets.registry import spelling
from nasopt.errors import ConfigError, NasoptError, nearest
from nasopt.tables import align


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, or 2 after an error that the user can cure."""
    parser, words = build_parser(), sys.argv[1:] if arguments is None else list(arguments)
    run = {"cost": _cost, "explain": _explain, "targets": _targets, "calibrate": calibrate, "export": export}
    run["search"] = run_search
    shown, warnings.showwarning = warnings.showwarning, _show_warning
    try:
        options = parse_with_config(parser, words)
        if getattr(options, "print_config", False):
            print(print_config(parser, options))
        else:
            print(run[options.command](options), flush=True)
    except BrokenPipeError:  # `| head` has seen enough; what Python flushes at its end must go somewhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (NasoptError, OSError) as error:
        print(f"nasopt: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("nasopt: stopped", file=sys.stderr)
        return 130
    finally:
        warnings.showwarning = shown
    return 0


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"nasopt: note: {message}", file=sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `nasopt`."""
    parser = argparse.ArgumentParser(prog="nasopt", description="Networks for microcontrollers.")
    parser.add_argument("--version", action="version", version=_versions())
    commands = parser.add_subparsers(dest="command", required=True)
    cost = commands.add_parser("cost", help="what a model costs, layer by layer")
    add_model(cost)
    cost.add_argument("--target", action="append", default=[], help="an embedded target, or its file; repeat for more")
    cost.add_argument("--runtime", help="an inference engine: does the network fit the targets in it?")
    cost.add_argument(
        "--lint", action="store_true", help="instead: what an int8 runtime cannot fold or fuse, and the cure"
    )
    cost.add_argument("--format", choices=("text", "csv", "json"), default="text")
    explain = commands.add_parser("explain", help="which channels can be searched, and why others cannot")
    add_model(explain)
    targets = commands.add_parser("targets", help="embedded targets: clock, memory, power, and where they come from")
    targets.add_argument("--match", default="", metavar="nrf", help="only those whose name or summary holds this")
    add_calibrate(commands.add_parser("calibrate", help="a target for your board, from timings, layers or a profile"))
    add_search(commands.add_parser("search", help="search a smaller network, train it, keep it"))
    add_export(commands.add_parser("export", help="a file for a runtime, compared with the network"))
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which model, and its input."""
    parser.add_argument(
        "model", help="file.py:name or package.module:name of a function that builds the model, or of the model itself"
    )
    parser.add_argument(
        "--input", action="append", required=True, metavar="3,32,32", help="shape of one sample; repeat for more inputs"
    )


def _versions() -> str:
    import platform

    import torch

    from nasopt import __version__

    return f"nasopt {__version__} (torch {torch.__version__}, Python {platform.python_version()})"


def _cost(options: argparse.Namespace) -> str:
    shapes = [input_shape(text) for text in options.input]
    model, shape = load_model(options.model), shapes[0] if len(shapes) == 1 else shapes
    targets = [load_target(name) for name in options.target]  # the model's file may register some
    if options.lint and (targets or options.runtime):
        raise ConfigError("--lint is about every int8 runtime and prints no costs: leave --target and --runtime out")
    report: CostReport | LintReport
    if options.lint:
        report = lint(model, shape)
    else:
        report = cost_report(model, shape, targets=targets, runtime=options.runtime)
    if options.format == "csv":
        return report.csv().rstrip("\n")
    return report.json() if options.format == "json" else str(report)


def _explain(options: argparse.Namespace) -> str:
    from nasopt import PIT, PITSuperNet, SuperNetModule

    shapes = [input_shape(text) for text in options.input]
    seed = load_model(options.model)
    method = PITSuperNet if any(isinstance(module, SuperNetModule) for module in seed.modules()) else PIT
    model = method(seed, shapes[0] if len(shapes) == 1 else shapes, unpriced="ignore")
    return f"{model}\n\n{model.explain()}"


def _targets(options: argparse.Namespace) -> str:
    match = options.match
    rows = [["target", "", "MHz", "RAM kB", "flash kB", "mW"]]
    notes = []
    matching = [get_target(name) for name in [*target_names(), *chip_names()]]
    wanted = spelling(match) or match.strip()
    matching = [target for target in matching if wanted in spelling(target.name) or wanted in spelling(target.summary)]
    if not matching:
        raise ConfigError(
            f"no target matches {match!r}: `nasopt targets` lists all {len(target_names())} and the chips."
            f"{nearest(match, [*target_names(), *chip_names()])}"
        )
    for target in matching:
        name = target.name
        sizes = [f"{size // 1024:,}" if size else "-" for size in (target.ram_bytes, target.flash_bytes)]
        power = f"{target.active_power_mw:g}" if target.active_power_mw else "-"
        rows.append([name, target.summary, f"{target.clock_mhz:g}", *sizes, power])
        notes.append(f"{name}: {target.provenance}")
    return "\n".join([*align(rows, left=2), "", *notes])
