"""Which numbers follow the channels? Calls that make no tensors: sizes remember the labels along them."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from nasopt.graph.call import Call, flatten
from nasopt.graph.facts import Extent


def call_without_tensors(call: Call) -> Any:
    """A call whose result holds no tensor: sizes remember the labels along them."""
    target = call.node.target
    if target is operator.getitem:
        return call.args[0][call.args[1]]
    asks_size = target in ("size", "numel", "nelement") or (target is getattr and call.args[1] == "shape")
    if asks_size and isinstance(call.args[0], Tensor):
        return _size(call, call.args[0], call.value)
    labels = [x for leaf in flatten((call.args, call.kwargs)) if isinstance(leaf, Extent) for x in leaf.labels]
    if not labels:
        return call.value
    if isinstance(call.value, int) and not isinstance(call.value, bool):
        return Extent(call.value, labels)
    if not isinstance(call.value, (bool, type(None), torch.Size)):
        call.fix(labels, "their number is used as a value")
    return call.value


def _size(call: Call, labels: Tensor, value: Any) -> Any:
    def extent(dim: int, size: int) -> int:
        return Extent(size, [call.labels.line(labels, dim)]) if call.labels.varies(labels, dim) else size

    if call.node.target in ("numel", "nelement"):
        lines = [call.labels.line(labels, dim) for dim in call.labels.varying(labels)]
        return Extent(value, lines) if lines else value
    if isinstance(value, tuple):
        return tuple(extent(dim, size) for dim, size in enumerate(value))
    return extent(int(call.argument(1, "dim")), value)
