"""Hostile calls: every argument of every public callable with values of every wrong kind; what is raw, what is silent.

    python proofs/hostile_calls.py                 # all; a few minutes
    python proofs/hostile_calls.py PIT export. -v  # callables whose names begin so; also what was taken because its type is right

A call that raises an error of nasopt refused the value. Any other exception is *raw*. A value that is taken though the annotation
does not allow it, or that is no finite number, is *silent*. Exit code 1 where there is one of either.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import inspect
import io
import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hostile_more_bases import BASES, LEFT_OUT
from torch import Tensor, nn

from nasopt.errors import NasoptError
from nasopt.search.options import SearchOptions
from unit_test.test_arguments import WRONG

VALUES = [*WRONG, "", -1.5, b"", {"macs": "x"}, [None], range(2), lambda: None]
KINDS: dict[str, tuple[type, ...]] = {
    **{"str": (str,), "bytes": (bytes,), "bool": (bool,), "None": (type(None),), "Path": (Path,), "Tensor": (Tensor,)},
    **{
        "int": (int,),
        "float": (float, int),
        "nn.Module": (nn.Module,),
        "torch.optim.Optimizer": (torch.optim.Optimizer,),
    },
}
ALIASES = {
    "Pair": "int | tuple[int, int]",
    **dict.fromkeys(
        (
            "MakeLayer",
            "Loss",
            "Figure",
            "Writer",
            "Rewriter",
            "Runner",
            "MaskedRunner",
            "StateRunner",
            "Where",
            "Front",
        ),
        "Callable[..., Any]",
    ),
    "Quantizer": "Callable[..., Any]",  # of the angle regularizer
    "Metric": "Callable[..., Any]",  # of exports
    "Widths": "int | Mapping[str, int] | None",
    "Bits": "int | Sequence[int]",
    "TargetLimits": "Sequence[tuple[str, float]]",
    "LeafModules": "Sequence[str | type[nn.Module]] | str",
}


def allows(annotation: str, value: Any) -> bool:
    """Whether a value is of the kind that an annotation names; names of aliases allow nothing."""
    alternatives = parts(annotation, "|")
    if len(alternatives) > 1:
        return any(allows(one, value) for one in alternatives)
    annotation = ALIASES.get(annotation, annotation)
    if "|" in annotation.partition("[")[0]:
        return allows(annotation, value)
    name, _, inner = annotation.partition("[")
    inside = parts(inner.removesuffix("]"), ",")
    if name in KINDS:
        is_plain = not isinstance(value, bool) or name == "bool"
        return isinstance(value, KINDS[name]) and is_plain
    if name in ("Sequence", "Iterable", "list", "tuple"):
        is_list = isinstance(value, (Sequence, range)) if name != "Iterable" else isinstance(value, Iterable)
        words = isinstance(value, (str, bytes, Mapping)) and inside[0] != "Any"
        return is_list and not words and getattr(value, "ndim", 1) > 0 and all(allows(inside[0], x) for x in value)
    if name in ("Mapping", "dict"):
        return isinstance(value, Mapping) and all(allows(inside[0], k) and allows(inside[1], value[k]) for k in value)
    if name == "type":
        return isinstance(value, type)
    if name == "Callable":
        return callable(value)
    if name == "Literal":
        return repr(value) in inside
    return name == "Any"


def parts(text: str, sign: str) -> list[str]:
    """What stands between signs that no bracket encloses."""
    found, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == sign and not depth:
            found.append("")
        else:
            found[-1] += letter
    return [one.strip() for one in found]


def arguments(function: Callable[..., Any]) -> Iterator[tuple[str, str]]:
    """Names and annotations of what may be given by name."""
    for parameter in inspect.signature(function).parameters.values():
        annotation = str(parameter.annotation)
        if "SearchOptions" in annotation:
            yield from (
                (name, str(getattr(hint, "__forward_arg__", hint)))
                for name, hint in SearchOptions.__annotations__.items()
            )
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            yield parameter.name, annotation


def is_no_number(annotation: str, value: Any) -> bool:
    """NaN or infinite where numbers are meant."""
    return isinstance(value, float) and not math.isfinite(value) and not re.search(r"\bAny\b", annotation)


def judge(call: Callable[[], Any], annotation: str, value: Any) -> tuple[str, str]:
    """`"refused"`, `"raw"`, `"silent"` or `"taken"`, and the words that say so."""
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            call()
    except NasoptError as error:
        return "refused", str(error)
    except Exception as error:
        if callable(value) and allows(annotation, value):
            return "taken", "a function that raises what it likes"
        return "raw", f"{type(error).__name__}: {' '.join(str(error).split())[:110]}"
    wrong = not allows(annotation, value) or is_no_number(annotation, value)
    return ("silent" if wrong else "taken"), f"as {annotation}"


def scan(name: str) -> Iterator[tuple[str, str, str]]:
    """Kind, call and words of every hostile call of one public callable."""
    make, right = BASES[name]
    function, _ = make()
    for argument, annotation in arguments(function):
        if argument in right and right[argument] is ...:
            continue
        for value in VALUES:
            if any(
                value is one or (type(value) is type(one) and not isinstance(value, Tensor) and value == one)
                for one in right.get(argument, ())
            ):
                continue
            function, given = make()
            shown = f"{name}({argument}={' '.join(repr(value).split())[:60]})"
            yield *judge(lambda: function(**{**given, argument: value}), annotation, value), shown  # noqa: B023


def public() -> set[str]:
    """Names of everything that can be called: `module.name`, without the first part."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "unit_test"))
    modules: Sequence[str] = __import__("test_public_types").MODULES
    names = set()
    for module in modules:
        found = __import__(module, fromlist=["x"])
        listed = getattr(found, "__all__", None) or [
            n for n, v in vars(found).items() if getattr(v, "__module__", "") == module
        ]
        for name in listed:
            value = getattr(found, name)
            if (
                callable(value)
                and not name.startswith("_")
                and not (isinstance(value, type) and issubclass(value, BaseException))
            ):
                names.add(f"{module}.{name}".removeprefix("nasopt."))
    return names


def main() -> int:
    """0: nothing raw, nothing silent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of names")
    parser.add_argument("-v", action="store_true", help="also what was taken, its type being right")
    args = parser.parse_args()
    torch.set_num_threads(1)
    missing = set() if args.names else public() - {*BASES, *LEFT_OUT}
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in BASES:
            if args.names and not name.startswith(tuple(args.names)):
                continue
            function, given = BASES[name][0]()
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                function(**given)  # the base itself is right
            for kind, words, call in scan(name):
                counts[kind] += 1
                if kind in ("raw", "silent") or (args.v and kind == "taken"):
                    print(f"{kind:7} {call}: {words}", flush=True)
    print(
        ", ".join(f"{counts[kind]} {kind}" for kind in ("refused", "taken", "raw", "silent")),
        f"of {sum(counts.values())} calls",
    )
    for name in sorted(missing):
        print(f"public, and neither tried nor left out for a reason: {name}")
    return int(bool(missing or counts["raw"] or counts["silent"]))


if __name__ == "__main__":
    sys.exit(main())
