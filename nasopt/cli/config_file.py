"""Options of a command in a YAML file: `--config FILE` reads them, `--print-config` shows them; the command line goes first.

Keys are the names of options without dashes, `arch-lr: 0.05`. A file is turned into the words of a command line, so types,
choices and messages are those of the options themselves.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nasopt.errors import ConfigError, nearest
from nasopt.extras import import_extra

_OWN = ("help", "config", "print-config")


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """`--config` and `--print-config`."""
    parser.allow_abbrev = False  # `--conf` would be read too late
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="options by name; those given here go first")
    parser.add_argument("--print-config", action="store_true", help="print the options as such a file and do nothing")


def parse_with_config(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse `command options...`; where there is a `--config`, its options come before those of the command line.

    Raises:
        ConfigError: the file cannot be read, or holds what the command does not take.
        MissingExtraError: PyYAML is not installed.
    """
    commands = _commands(parser)
    own = commands.get(arguments[0]) if arguments else None
    config = _given_config(arguments) if own is not None and "--config" in own._option_string_actions else None
    if own is None or config is None:
        return parser.parse_args(arguments)
    return parser.parse_args([arguments[0], *_words(config, own), *arguments[1:]])


def _given_config(arguments: Sequence[str]) -> Path | None:
    """Read before anything else: the file may hold what the command cannot do without."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config", type=Path)
    try:
        found: Path | None = first.parse_known_args(arguments)[0].config
    except argparse.ArgumentError:  # without a value; the command's own parser says so
        found = None
    return found


def print_config(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """The options as a YAML file that gives them again; those that are left to the recipe are left out."""
    yaml = import_extra("yaml", "config", "--print-config")
    found: dict[str, Any] = {}
    for name, action in _options(_commands(parser)[options.command]).items():
        value = getattr(options, action.dest)
        if action.nargs == 0:
            if value is not None and value == action.const:
                found[name] = True
        elif value not in (None, []):
            found[name] = str(value) if isinstance(value, Path) else value
    return str(yaml.safe_dump(found, sort_keys=False)).rstrip()


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    actions = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(next(actions).choices)


def _options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    named = ((a.option_strings[-1].removeprefix("--"), a) for a in parser._actions if a.option_strings)
    return {name: action for name, action in named if name not in _OWN}


def _words(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    content, known = _read(path), _options(parser)
    words: list[str] = []
    for key, value in content.items():
        name = str(key).replace("_", "-")
        if name not in known:
            raise ConfigError(f"{path}: unknown option {key!r}: known are {', '.join(known)}.{nearest(name, known)}")
        is_flag = known[name].nargs == 0
        if isinstance(value, dict) or is_flag != isinstance(value, bool):
            wanted = "true or false" if is_flag else "a number, text or a list"
            raise ConfigError(f"{path}: {key} must be {wanted}, got {value!r}")
        if is_flag:
            words += [f"--{name}"] if value else []
        elif isinstance(value, list) and not isinstance(known[name], argparse._AppendAction):
            words.append(f"--{name}={','.join(map(str, value))}")
        else:
            values = value if isinstance(value, list) else [value]
            words += [f"--{name}={one}" for one in values if one is not None]
    return words


def _read(path: Path) -> dict[Any, Any]:
    yaml = import_extra("yaml", "config", "--config")

    class Loader(yaml.SafeLoader):  # type: ignore[misc, name-defined]
        """Refuses a key that is there twice, of which YAML would keep the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            if twice := {str(key) for key in keys if keys.count(key) > 1}:
                raise ConfigError(f"{path}: {', '.join(sorted(twice))} is there twice")
            return super().construct_mapping(node, deep)

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"--config {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path}: give options by name, like 'method: pit', got {str(content)[:80]!r}")
    return content


def count(text: str) -> int:
    """An int >= 1, as the type of an option."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value
