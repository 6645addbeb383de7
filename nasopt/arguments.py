"""Checks of plain arguments: flags, numbers, counts, names; every error names the argument, what arrived and what is allowed."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from nasopt.errors import ConfigError, nearest


def check_flag(where: str, value: Any) -> bool:
    """True or False, nothing that is merely true: `"no"` and `[0]` are.

    Raises:
        ConfigError: it is no bool.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{where} must be True or False, got {short(value)}")
    return value


def check_number(
    where: str, value: Any, least: float = -math.inf, *, above: float = -math.inf, unit: str = ""
) -> float:
    """A finite number that is not below `least` and not at or below `above`, as a float.

    Raises:
        ConfigError: another value; text, a bool and a tensor are no numbers.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)  # numpy's, too
    if not is_number or not abs(value) < math.inf or value < least or value <= above:
        bound = f" > {above:g}" if above > -math.inf else f" >= {least:g}" if least > -math.inf else ""
        raise ConfigError(f"{where} must be a finite number{bound}{unit and f' [{unit}]'}, got {short(value)}")
    return float(value)


def check_count(where: str, value: Any, least: int = 0, unit: str = "") -> int:
    """An int that is not below `least`.

    Raises:
        ConfigError: another value; a bool and 2.0 are no counts.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ConfigError(f"{where} must be an int >= {least}{unit and f' [{unit}]'}, got {short(value)}")
    return int(value)


def check_items(where: str, values: Any, kind: type | tuple[type, ...], words: str) -> list[Any]:
    """The items of an iterable that is no text and no mapping, all of one `kind`; `words` say which, in messages.

    Raises:
        ConfigError: another value, or an item of another kind; True is no int.
    """
    usable = isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping))
    items = list(values) if usable and getattr(values, "ndim", None) != 0 else None
    if items is None or any(not isinstance(x, kind) or (isinstance(x, bool) and kind is int) for x in items):
        raise ConfigError(f"{where} must be a list of {words}, got {short(values)}")
    return items


def check_batches(where: str, batches: Any) -> None:
    """Raises `ConfigError` where batches are no iterable of batches: text, a mapping and one tensor are none."""
    if isinstance(batches, (str, bytes, Mapping, Tensor)) or not isinstance(batches, Iterable):
        raise ConfigError(f"{where}: batches are an iterable of batches, like a loader; got {short(batches)}")


def check_no_more(where: str, unknown: Mapping[str, Any], function: Callable[..., Any], more: Iterable[str]) -> None:
    """Raises `ConfigError` for keyword arguments that `function` does not have, beside `more`, with the nearest one."""
    for name in unknown:
        signature = inspect.signature(function).parameters.values()
        known = [p.name for p in signature if p.kind is p.KEYWORD_ONLY or p.kind is p.POSITIONAL_OR_KEYWORD]
        known = [word for word in dict.fromkeys([*known, *more]) if word != "self"]
        raise ConfigError(f"{where} has no argument {name!r}: it has {', '.join(known)}.{nearest(name, known)}")


def short(value: Any, most: int = 80) -> str:
    """A value as one line of a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[:most]}..."
