"""Decorator that checks the arguments of public functions against their annotations: no value of another kind gets in."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from nasopt.arguments import short
from nasopt.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type[Any])
# What annotations name and a module may import for type checkers alone.
_NAMES = {
    **{name: getattr(typing, name) for name in ("Any", "Literal")},
    **{name: getattr(collections.abc, name) for name in ("Callable", "Iterable", "Iterator", "Mapping", "Sequence")},
    **{"Tensor": Tensor, "nn": nn, "Path": Path, "os": os},
}


def checked(function: F, but: Sequence[str] = ()) -> F:
    """Arguments are of the kinds that the annotations name: a `ConfigError` says which it is not, what arrived and what is taken.

    A bool is no number, a number is finite, text is no sequence, and lists hold what they say, unless tuples. Not checked are
    annotations that cannot be evaluated, arguments without one, what dicts hold, and the arguments named by `but`: the function
    has more to say of these. What is no matter of kinds is its own, too. Nothing is checked inside of `torch.compile`.
    """
    signature = inspect.signature(function)
    name = function.__qualname__.removesuffix(".__init__")

    @functools.cache
    def kinds() -> dict[str, Any]:
        scope = {**_NAMES, **getattr(function, "__globals__", {})}
        return {p.name: _evaluated(p.annotation, scope) for p in signature.parameters.values()}

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # a graph holds no checks
            return function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        for argument, given in bound.arguments.items():
            kind = kinds()[argument]
            parameter = signature.parameters[argument]
            if parameter.kind is parameter.VAR_KEYWORD or argument in but:
                continue
            for value in given if parameter.kind is parameter.VAR_POSITIONAL else (given,):
                if not fits(value, kind) and value is not parameter.default:
                    words = " or ".join(dict.fromkeys(_words(kind)))
                    raise ConfigError(f"{name}: {argument} must be {words}, got {short(value)}")
        return function(*args, **kwargs)

    return typing.cast(F, call)


def checked_but(*names: str) -> Callable[[F], F]:
    """`checked`, but for these arguments."""
    return lambda function: checked(function, names)


def checked_fields(record: C) -> C:
    """The same for the fields of a dataclass, when one is made."""
    record.__init__ = checked(record.__init__)
    return record


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the kind of an annotation; of the items of a list all are looked at."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or kind is object or isinstance(kind, (str, TypeVar)):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inside)
    if origin is Literal:
        return any(value is one or (isinstance(value, str) and value == one) for one in inside)
    if kind in (int, float):  # numpy's, too
        wanted = numbers.Real if kind is float else numbers.Integral
        return isinstance(value, wanted) and not isinstance(value, bool) and math.isfinite(value)
    if kind is None:
        return value is None
    if origin is type:
        return isinstance(value, type) and (
            not inside or not isinstance(inside[0], type) or issubclass(value, inside[0])
        )
    if origin is collections.abc.Callable or kind is Callable:
        return callable(value)
    if origin is tuple and isinstance(value, tuple):
        every = inside[:1] * len(value) if inside[1:] == (...,) else inside
        return len(every) == len(value) and all(map(fits, value, every))
    base: Any = origin or kind
    if not isinstance(base, type) or (
        getattr(base, "_is_protocol", False) and base not in (Iterable, Sequence, Mapping)
    ):
        return True
    is_old = base is Iterable and hasattr(value, "__getitem__")  # data sets have no __iter__
    if not isinstance(value, base) and not is_old:
        return False
    if base in (Sequence, Iterable, list) and inside:
        if isinstance(value, (str, bytes, Mapping)):
            return False
        is_list = isinstance(value, (list, tuple, range))  # what else can be iterated over may be used up by it
        items: Any = value if is_list and not _names_tuples(inside[0]) else ()
        return getattr(value, "ndim", 1) > 0 and all(fits(item, inside[0]) for item in items)
    return True


def _names_tuples(kind: Any) -> bool:
    """Records in a list are the function's own to judge: it can say which one is wrong, and in what."""
    return any(typing.get_origin(one) is tuple or one is tuple for one in (kind, *typing.get_args(kind)))


def _evaluated(annotation: Any, scope: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, scope)
    except (NameError, AttributeError, TypeError, SyntaxError):
        return Any


def _words(kind: Any) -> Iterator[str]:
    """An annotation in words."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    plain = {
        int: "an int",
        float: "a finite number",
        bool: "True or False",
        str: "text",
        None: "None",
        types.NoneType: "None",
    }
    if origin in (typing.Union, types.UnionType):
        for one in inside:
            yield from _words(one)
    elif origin is Literal:
        yield from map(repr, inside)
    elif kind in plain:
        yield plain[kind]
    elif origin is collections.abc.Callable or kind is Callable:
        yield "a function"
    elif origin is os.PathLike or kind is Path:
        yield "a path"
    elif origin is tuple:
        yield f"a tuple ({', '.join('...' if one is ... else next(_words(one)) for one in inside)})"
    elif origin in (list, Sequence, Iterable):
        yield f"a list of {next(_words(inside[0])) if inside and inside[0] is not Any else 'values'}"
    elif origin is type:
        yield "a class"
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield "a dict"
    else:
        yield f"a {getattr(kind, '__name__', kind)}"
