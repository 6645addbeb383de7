"""Layers of binary networks: one-bit convolutions and what connects the nodes of a cell."""

from __future__ import annotations

import math
from typing import Any

from nasopt.graph.call import Call
from nasopt.graph.registry import layer_rule
from nasopt.graph.rules.convolution import convolution_layer
from nasopt.graph.rules.elementwise import unary_layer
from nasopt.nn import Align2d, BinaryActivation, BinaryConv2d, CellPool2d, TwinConv2d

layer_rule(BinaryActivation)(unary_layer)
layer_rule(TwinConv2d, searchable="channels")(convolution_layer)


@layer_rule(BinaryConv2d, searchable="fixes its channels")
def binary_convolution(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, BinaryConv2d)
    size = tuple(call.value.shape[-2:])
    depthwise = layer.groups > 1 and layer.groups == layer.in_channels
    call.cost(
        "depthwise" if depthwise else "conv",
        layer.in_channels,
        layer.out_channels,
        kernel=layer.kernel_size,
        positions=math.prod(size),
        output_size=size,
        stride=layer.stride,
        groups=layer.groups,
        weight="weight",
        weight_bits=1,
        activation_bits=1 if isinstance(call.producer(0, "input"), BinaryActivation) else 32,
    )
    if layer.bias is not None:
        call.cost("parameter", 1, layer.out_channels, weight="bias")
    return call.fixed_unit("a binary convolution stays whole: all its weights share one scale")


@layer_rule(CellPool2d)
def cell_pool(call: Call) -> Any:
    x = call.args[0]
    channels = call.channels(x, 1)
    size = tuple(x.shape[-2:])
    sizes: dict[str, Any] = {"kernel": (3, 3), "positions": math.prod(size), "output_size": size, "stride": (1, 1)}
    call.cost("pool", channels, channels, groups=channels, **sizes)
    return x


@layer_rule(Align2d, searchable="fixes its channels")
def align(call: Call) -> Any:
    return call.fixed_unit("it repeats or drops channels")
