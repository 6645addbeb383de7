"""Weight attention: a convolution whose channels stay, with the price of its attention and of scaling its weights."""

from __future__ import annotations

import math
from typing import Any

from nasopt.graph.call import Call
from nasopt.graph.registry import layer_rule
from nasopt.nn import AWConv2d


@layer_rule(AWConv2d, searchable="fixes its channels")
def weight_attention(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, AWConv2d)
    inputs, outputs, hidden = layer.in_channels, layer.out_channels, layer.squeeze.out_channels
    taps = math.prod(layer.kernel_size)
    attention: dict[str, Any] = {
        "kernel": (1, 1),
        "positions": taps,
        "output_size": layer.kernel_size,
        "stride": (1, 1),
        "bias": True,  # the norms that follow are folded
    }
    call.cost("conv", inputs, hidden, weight="squeeze.weight", **attention)
    call.cost("conv", hidden, outputs, weight="excite.weight", **attention)
    # One multiplication per weight and sample: K + A K.
    call.cost("matmul", 1, inputs * outputs, positions=taps)
    size = tuple(call.value.shape[-2:])
    call.cost(
        "conv",
        inputs,
        outputs,
        kernel=layer.kernel_size,
        positions=math.prod(size),
        output_size=size,
        stride=layer.stride,
        bias=layer.bias is not None,
        weight="weight",
    )
    return call.fixed_unit(
        "its attention reads all input channels and scales all weights: without one of them every other weight changes"
    )
