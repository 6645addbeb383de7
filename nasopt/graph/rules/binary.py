"""Layers of binary networks: convolutions of one bit or few levels, and what connects the nodes of a cell."""

from __future__ import annotations

import math
from typing import Any

from nasopt.graph.call import Call
from nasopt.graph.registry import layer_rule
from nasopt.graph.rules.convolution import convolution_layer
from nasopt.graph.rules.elementwise import unary_layer
from nasopt.nn import Align2d, BinaryActivation, BinaryConv2d, CellPool2d, PAActivation, PAConv2d, TwinConv2d

layer_rule(BinaryActivation)(unary_layer)
layer_rule(TwinConv2d, searchable="channels")(convolution_layer)


@layer_rule(PAActivation)
def piecewise_activation(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, PAActivation)
    call.cost("parameter", 1, 2 * layer.levels, weight="thresholds")  # and values
    return unary_layer(call)


@layer_rule(BinaryConv2d, searchable="fixes its channels")
def binary_convolution(call: Call) -> Any:
    bits = 1 if isinstance(call.producer(0, "input"), BinaryActivation) else 32
    return _whole_convolution(call, 1, bits, "a binary convolution stays whole: all its weights share one scale")


@layer_rule(PAConv2d, searchable="fixes its channels")
def piecewise_convolution(call: Call) -> Any:
    """One bit per weight and level, as the planes that are computed with; behind a `PAActivation` M N of them meet."""
    layer, before = call.module, call.producer(0, "input")
    assert isinstance(layer, PAConv2d)
    bits = before.levels if isinstance(before, PAActivation) else 32
    return _whole_convolution(call, layer.levels, bits, "a piecewise convolution stays whole: its weights share levels")


def _whole_convolution(call: Call, weight_bits: int, activation_bits: int, reason: str) -> Any:
    layer: Any = call.module
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
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        shares_scale=True,
    )
    if layer.bias is not None:
        call.cost("parameter", 1, layer.out_channels, weight="bias")
    return call.fixed_unit(reason)


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
