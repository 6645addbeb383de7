"""Call sites in user code: the frame of `forward` that is running, its source line, and the expression it evaluates."""

from __future__ import annotations

import ast
import itertools
import linecache
import sys
import sysconfig
import textwrap
import traceback
from pathlib import Path
from types import FrameType

import torch

_OWN = str(Path(__file__).parents[1])
_TORCH = str(Path(torch.__file__).parent)
_PYTHON = sysconfig.get_path("stdlib")
# Methods of dicts and sets that take a key.
_TAKES_KEY = {
    "get",
    "pop",
    "setdefault",
    "add",
    "discard",
    "remove",
    "count",
    "index",
    "hash",
    "set",
    "frozenset",
    "dict",
}


def user_frame() -> FrameType | None:
    """The innermost running frame that is neither torch's nor ours."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_users(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def _is_users(filename: str) -> bool:
    if filename.startswith((_OWN, _TORCH, "<frozen", "<eval_with_key")):
        return False
    return not filename.startswith(_PYTHON) or "site-packages" in filename


def place_of(frame: FrameType | None) -> str:
    """`"file.py:12: the line"`, without the folder, which means nothing on another machine."""
    if frame is None:
        return "an unknown line"
    code = textwrap.shorten(linecache.getline(frame.f_code.co_filename, frame.f_lineno), 100, placeholder=" ...")
    return f"`{code}` ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"


def line_of_error(error: BaseException) -> str:
    """`" at file:line in name: code"` of the innermost frame that is the user's, or an empty string."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).exists() and _is_users(frame.filename):
            code = linecache.getline(frame.filename, frame.lineno or 0).strip()
            return f" at {frame.filename}:{frame.lineno} in {frame.name}: `{code}`"
    return ""


def is_shown_only(frame: FrameType | None) -> bool:
    """Whether the line that runs only shows a value to a person: it prints, logs, warns or raises."""
    if frame is None:
        return True
    code = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return any(word in code for word in ("print(", "log", "warn", "raise", "assert", "Error(", "debug", "info("))


def expression(frame: FrameType | None) -> ast.expr | None:
    """The expression that a frame evaluates now; None where its source or its position is not known."""
    if frame is None or not hasattr(frame.f_code, "co_positions"):
        return None
    span = next(itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), None)
    if span is None or None in span:
        return None
    first, last, start, end = (int(number) for number in span if number is not None)
    lines = [linecache.getline(frame.f_code.co_filename, number).encode() for number in range(first, last + 1)]
    if not all(lines):
        return None
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][start:]
    try:
        return ast.parse("(" + b"".join(lines).decode() + ")", mode="eval").body
    except SyntaxError:
        return None


def takes_key(frame: FrameType | None) -> bool:
    """Whether the expression looks a key up, so that a hash is asked for; False for a call of a cached function."""
    found = expression(frame)
    if not isinstance(found, ast.Call):
        return True
    name = getattr(found.func, "attr", getattr(found.func, "id", ""))
    return name in _TAKES_KEY


def names_dtype(frame: FrameType | None) -> bool:
    """Whether a dtype in the call that runs is written out (`torch.float32`), or its origin is not known."""
    found = expression(frame)
    if not isinstance(found, ast.Call):
        return True
    given = [*found.args, *(keyword.value for keyword in found.keywords)]
    return not any(isinstance(one, ast.Name) or _ends_in_dtype(one) for one in given) or any(map(_is_literal, given))


def _ends_in_dtype(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "dtype"
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "torch"))
    )


def _is_literal(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("torch", "th")
        and isinstance(getattr(torch, node.attr, None), torch.dtype)
    )
