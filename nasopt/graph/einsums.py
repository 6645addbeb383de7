"""Sums over more than two factors, `einsum("bld,bln,bld->bldn", ...)`, as torch computes them: one factor after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def split_equation(args: Sequence[Any]) -> list[tuple[str, int]]:
    """Equations of two factors each, with the position of the second one; empty where there are two, or it is not followed."""
    equation = args[0].replace(" ", "") if args and isinstance(args[0], str) else ""
    left, arrow, output = equation.partition("->")
    terms = left.split(",")
    if len(terms) < 3 or len(args) != len(terms) + 1 or not arrow or "." in equation:
        return []
    if any(len(set(term)) != len(term) for term in terms):
        return []
    found, first = [], terms[0]
    for i, second in enumerate(terms[1:], 1):
        wanted = {*output, *"".join(terms[i + 1 :])}
        result = output if i == len(terms) - 1 else "".join(a for a in dict.fromkeys(first + second) if a in wanted)
        found.append((f"{first},{second}->{result}", i + 1))
        first = result
    return found
