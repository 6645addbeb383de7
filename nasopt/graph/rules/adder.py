"""Adder layers: channels as of a convolution, masked on both sides of the difference, priced in additions."""

from __future__ import annotations

import math
import warnings
from typing import Any

from torch import Tensor

from nasopt.errors import LayerWarning
from nasopt.graph.branches.markers import Choice
from nasopt.graph.call import Call
from nasopt.graph.registry import layer_rule, memory_of
from nasopt.graph.rules.convolution import unite_groups
from nasopt.nn import AdderConv2d


def _run_masked(layer: Any, x: Tensor, mask: Tensor) -> Tensor:
    # A weight of zero is compared like any other: an absent channel must be left out of the sum.
    return layer.distances(x, mask)


@layer_rule(AdderConv2d, searchable="channels", run_masked=_run_masked)
def adder_convolution(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, AdderConv2d)
    _warn_without_norm(call)
    read = call.channels(call.argument(0, "x"), 1)
    size = tuple(call.value.shape[-2:])
    sizes: dict[str, Any] = {
        "kernel": layer.kernel_size,
        "positions": math.prod(size),
        "output_size": size,
        "stride": layer.stride,
    }
    if layer.groups > 1 and layer.weight.shape[1] == 1:
        written = read.repeat_interleave(layer.weight.shape[0] // layer.groups)
        call.slices("weight", 0, written)
        call.attribute("groups", read)
        call.cost("adder", read, written, groups=read, **sizes)
    else:
        in_one_group = unite_groups(call, read, layer.groups)
        written = call.writes("weight", 0, layer.weight.shape[0] // layer.groups, repeat=layer.groups)
        call.reads("weight", 1, in_one_group)
        call.cost("adder", read, written, groups=layer.groups, **sizes)
    call.attribute("in_channels", read)
    call.attribute("out_channels", written)
    return call.spread(written, 1)


def _warn_without_norm(call: Call) -> None:
    """Warn where what reads the layer's result, views and choices passed through, is neither a norm nor the end."""
    graph = call.node.graph.owning_module
    assert graph is not None
    waiting = list(call.node.users)
    while waiting:
        user = waiting.pop()
        layer = graph.get_submodule(str(user.target)) if user.op == "call_module" else None
        name = str(getattr(user.target, "__name__", user.target)) if layer is None else type(layer).__name__
        if user.op == "output" or "norm" in name.lower():
            continue
        if isinstance(layer, Choice) or memory_of(graph, user) == "view":
            waiting += list(user.users)
            continue
        warnings.warn(
            f"{call.name}: the outputs of an adder layer are never positive, and {name} reads them without a norm in "
            "between: put a batch norm after the adder layer",
            LayerWarning,
            stacklevel=2,
        )
