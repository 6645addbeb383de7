"""Reductions and what mixes along given dimensions: free where nothing varies along them, over living channels, or fixing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from nasopt.graph.call import Call
from nasopt.graph.facts import no_labels
from nasopt.graph.registry import function_rule, layer_rule
from nasopt.graph.rules import living
from nasopt.graph.rules.elementwise import meet, named

_REDUCTIONS = named(
    "var_mean std_mean median nanmean nansum all any argmax argmin count_nonzero mode kthvalue aminmax quantile", torch
)


@function_rule(*_REDUCTIONS, torch.linalg.norm)
def reduction(call: Call) -> Any:
    x = call.argument(0, "input")
    second = call.argument(1, "other")
    if isinstance(second, Tensor):
        return meet(call, [x, second], call.value.shape)
    name = str(getattr(call.node.target, "__name__", call.node.target))
    position = 2 if name in ("norm", "kthvalue", "quantile", "linalg_vector_norm", "linalg_norm") else 1
    given = call.argument(position, "dim", call.kwargs.get("axis"))
    dims = _dims(x, None if isinstance(given, bool) else given)
    if any(call.labels.varies(x, dim) for dim in dims):
        known = name in living.REDUCTIONS or call.node.target in living.VECTOR_NORMS
        if known and _values_alone(call) and _read_living(call, x, dims):
            line = call.channels(x, call.labels.varying(x)[0])
            if name in ("var", "std") and math.prod(x.shape[d] for d in dims) == len(line):
                call.fix(line[:2], "a variance needs two channels at least")
            return no_labels(call.value)
        return call.fixed_unit("it is reduced over its channels")
    keep = len(_first(call.value).shape) == x.dim()
    left = x.amax(dim=dims, keepdim=keep) if x.numel() else no_labels(_first(call.value))
    return left if isinstance(call.value, Tensor) else tuple(left for _ in call.value)


for _name, _run in living.REDUCTIONS.items():
    function_rule(*named(_name, torch), run_masked=_run)(reduction)
for _function, _run in living.VECTOR_NORMS.items():
    function_rule(_function, run_masked=_run)(reduction)


def _values_alone(call: Call) -> bool:
    """Whether nobody asks at which positions the values were, which are others in a smaller network."""
    if not isinstance(call.value, tuple):
        return True
    return all(isinstance(user, fx.Node) and user.args[1:] == (0,) for user in call.node.users)


def _read_living(call: Call, x: Tensor, dims: Sequence[int]) -> bool:
    """Read the one dimension along which channels vary, which is one of these; False where there is no such."""
    varying = call.labels.varying(x)
    if call.of_parameters or call.argument_node(0, "input") is None or len(varying) != 1 or varying[0] not in dims:
        return False
    call.reads_argument(0, "input", varying[0], call.labels.line(x, varying[0]))
    return True


def _dims(x: Tensor, dim: Any) -> list[int]:
    if dim is None or dim == ():
        return list(range(x.dim()))
    return [d % x.dim() for d in (dim if isinstance(dim, Sequence) else [dim])]


def _first(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else value[0]


_MIXING = named("softmin cumprod sort argsort gumbel_softmax cummax cummin logcumsumexp", torch, F)


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


for _name, _run in living.MIXING.items():
    function_rule(*named(_name, torch, F), memory="in_place", run_masked=_run)(mixing)


@layer_rule(nn.Softmax, nn.LogSoftmax, nn.Softmin, searchable="fixes the dimension it normalises", memory="in_place")
def softmax_layer(call: Call) -> Any:
    layer: Any = call.module
    return _mix(call, call.args[0], layer.dim)


@layer_rule(nn.Softmax2d, searchable="fixes the dimension it normalises", memory="in_place")
def softmax_2d(call: Call) -> Any:
    return _mix(call, call.args[0], -3)


def _mix(call: Call, x: Tensor, dim: Any) -> Any:
    dims = _dims(x, dim)
    if any(call.labels.varies(x, d) for d in dims):
        name = str(getattr(call.node.target, "__name__", call.node.target))
        if call.module is None and name in living.MIXING and _read_living(call, x, dims):
            return x
        return call.fixed_unit("it is normalised over its channels")
    return x if isinstance(call.value, Tensor) else tuple(x for _ in call.value)


@function_rule(torch.topk, "topk")
def topk(call: Call) -> Any:
    x = call.args[0]
    dim = call.argument(2, "dim", -1)
    if call.labels.varies(x, dim):
        return call.fixed_unit("the largest of its channels are chosen")
    return tuple(x.narrow(dim, 0, 1).expand(part.shape) for part in call.value)
