"""Reductions and what mixes along given dimensions: free where labels do not vary along them, else fixing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.graph.call import Call
from nasopt.graph.facts import no_labels
from nasopt.graph.registry import function_rule, layer_rule
from nasopt.graph.rules.elementwise import meet, named

_REDUCTIONS = named(
    "mean sum amax amin max min prod std var var_mean std_mean median nanmean nansum all any argmax argmin logsumexp norm "
    "count_nonzero mode kthvalue aminmax quantile",
    torch,
)


@function_rule(*_REDUCTIONS)
def reduction(call: Call) -> Any:
    x = call.argument(0, "input")
    second = call.argument(1, "other")
    if isinstance(second, Tensor):
        return meet(call, [x, second], call.value.shape)
    name = getattr(call.node.target, "__name__", call.node.target)
    position = 2 if name in ("norm", "kthvalue", "quantile") else 1
    dims = _dims(x, call.argument(position, "dim", call.kwargs.get("axis")))
    if any(call.labels.varies(x, dim) for dim in dims):
        return call.fixed_unit("it is reduced over its channels")
    keep = len(_first(call.value).shape) == x.dim()
    left = x.amax(dim=dims, keepdim=keep) if x.numel() else no_labels(_first(call.value))
    return left if isinstance(call.value, Tensor) else tuple(left for _ in call.value)


def _dims(x: Tensor, dim: Any) -> list[int]:
    if dim is None or dim == ():
        return list(range(x.dim()))
    return [d % x.dim() for d in (dim if isinstance(dim, Sequence) else [dim])]


def _first(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else value[0]


_MIXING = named(
    "softmax log_softmax softmin cumsum cumprod sort argsort normalize gumbel_softmax cummax cummin logcumsumexp",
    torch,
    F,
)


@function_rule(*_MIXING, memory="in_place")
def mixing(call: Call) -> Any:
    """Same shape in and out, one dimension mixed."""
    x = call.argument(0, "input")
    name = str(getattr(call.node.target, "__name__", call.node.target))
    places: dict[str, tuple[int, int]] = {
        "normalize": (2, 1),
        "gumbel_softmax": (4, -1),
        "sort": (1, -1),
        "argsort": (1, -1),
    }
    position, default = places.get(name, (1, None))
    return _mix(call, x, call.argument(position, "dim", default))


@layer_rule(nn.Softmax, nn.LogSoftmax, nn.Softmin, searchable="fixes the dimension it normalises", memory="in_place")
def softmax_layer(call: Call) -> Any:
    layer: Any = call.module
    return _mix(call, call.args[0], layer.dim)


@layer_rule(nn.Softmax2d, searchable="fixes the dimension it normalises", memory="in_place")
def softmax_2d(call: Call) -> Any:
    return _mix(call, call.args[0], -3)


def _mix(call: Call, x: Tensor, dim: Any) -> Any:
    if any(call.labels.varies(x, d) for d in _dims(x, dim)):
        return call.fixed_unit("it is normalised over its channels")
    return x if isinstance(call.value, Tensor) else tuple(x for _ in call.value)


@function_rule(torch.topk, "topk")
def topk(call: Call) -> Any:
    x = call.args[0]
    dim = call.argument(2, "dim", -1)
    if call.labels.varies(x, dim):
        return call.fixed_unit("the largest of its channels are chosen")
    return tuple(x.narrow(dim, 0, 1).expand(part.shape) for part in call.value)
