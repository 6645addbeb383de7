"""REAF convolutions: position j of every group lives and dies together, in what is read and in what is written."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from nasopt.graph.call import Call
from nasopt.graph.registry import layer_rule
from nasopt.graph.rules.convolution import unite_groups
from nasopt.nn import ReafConv2d


def _run(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    return layer.run(x, weight)


@layer_rule(ReafConv2d, searchable="channels", run=_run)
def reaf_convolution(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, ReafConv2d)
    read = call.channels(call.argument(0, "x"), 1)
    in_one_group = unite_groups(call, read, layer.groups)
    count = len(layer.subsets)
    written = call.writes("weight", 0, layer.weight.shape[0] // count, repeat=count)
    call.reads("weight", 1, in_one_group.repeat(layer.merge))
    size = tuple(call.value.shape[-2:])
    # What runs is a grouped convolution of the groups that every output group reads, side by side.
    call.cost(
        "conv",
        in_one_group.repeat(layer.merge * count),
        written,
        kernel=layer.kernel_size,
        positions=math.prod(size),
        output_size=size,
        stride=layer.stride,
        groups=count,
        bias=layer.bias is not None,
        weight="weight",
    )
    call.attribute("in_channels", read)
    call.attribute("out_channels", written)
    call.slices("bias", 0, written)
    return call.spread(written, 1)
