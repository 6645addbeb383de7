"""Outputs of programs: real numbers of what is known of a node, and the containers that a network returns them in."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from torch import Tensor

from nasopt.export.integer.formulas import Formula
from nasopt.export.integer.operations import Draft, Integers, kept
from nasopt.export.integer.parts import Output


def output_of(draft: Draft, found: Any, one: Tensor, two: Tensor) -> Output:
    """The output that integers, sums or a formula are; `one` and `two`: its values for one and two samples."""
    shape, batch_dim = tuple(one.shape), _batch_dim(one, two)
    if isinstance(found, Integers):
        return Output(((found.name, np.array(draft.values[found.name].step)),), shape, batch_dim=batch_dim)
    if isinstance(found, Formula) and found.entries is not None:
        entries = np.clip(found.entries, found.low, found.high)
        terms = ((found.inputs[0], np.array(1.0)),)
        return Output(terms, shape, table=entries, first=found.settings["first"], batch_dim=batch_dim)
    if isinstance(found, Formula):
        real = kept(draft, found)
        if real is None:
            summands = tuple(zip(found.inputs, found.scales))
            return Output(summands, shape, found.low, found.high, batch_dim=batch_dim)
        found = real
    return Output(((found.name, found.scale),), shape, found.low, found.high, batch_dim=batch_dim)


def contents(node: Any) -> Any:
    """What a call puts into a named tuple, a data class or a dict: `(value, ...)`, or by name; None of any other call."""
    kind = node.target
    if node.op != "call_function" or not isinstance(kind, type):
        return None
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return (*node.args, *(node.kwargs[name] for name in kind._fields[len(node.args) :] if name in node.kwargs))
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        return {**dict(zip(names, node.args)), **node.kwargs}
    return dict(node.kwargs) if issubclass(kind, dict) and not node.args else None


def _batch_dim(one: Tensor, two: Tensor) -> int:
    """Where samples lie: the dimension that grows with their number."""
    grown = [dim for dim, (a, b) in enumerate(zip(one.shape, two.shape)) if a != b]
    return grown[0] if grown else 0
