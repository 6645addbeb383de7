"""FlyNet's layers: multi-head depthwise convolutions, whose heads are channels too, and channel attention."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from nasopt.graph.call import Call
from nasopt.graph.registry import layer_rule
from nasopt.graph.rules.elementwise import unary_layer
from nasopt.nn import MeanVarianceECA, MultiHeadDepthwise, QuantNoise

layer_rule(QuantNoise)(unary_layer)


def _run_masked(layer: Any, x: Tensor, mask: Tensor) -> Tensor:
    # An absent head counts as minus infinity, not as zero.
    return layer.with_heads(x, mask)


@layer_rule(MultiHeadDepthwise, searchable="heads; passes channels on", run_masked=_run_masked)
def multi_head_depthwise(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, MultiHeadDepthwise)
    channels = call.channels(call.argument(0, "x"), 1)
    # The layer makes its heads and is the one that reads them: position h of the weight along dimension 1.
    heads = call.writes("weight", 1, layer.weight.shape[1])
    call.reads("weight", 1, heads)
    call.slices("weight", 0, channels)
    call.attribute("channels", channels)
    call.attribute("heads", heads)
    size = tuple(call.value.shape[-2:])
    sizes: dict[str, Any] = {"positions": math.prod(size), "output_size": size, "groups": channels}
    kernel = (heads, *layer.kernel_size)
    call.cost("depthwise", channels, channels, kernel=kernel, stride=(1, *layer.stride), weight="weight", **sizes)
    # The maximum over the heads; it also says that no norm can be folded into what lies before it.
    call.cost("pool", channels, channels, kernel=(heads,), stride=(1,), **sizes)
    return call.spread(channels, 1)


@layer_rule(MeanVarianceECA, searchable="fixes its channels")
def mean_variance_attention(call: Call) -> Any:
    layer = call.module
    assert isinstance(layer, MeanVarianceECA)
    channels = call.value.shape[1]
    sizes: dict[str, Any] = {"kernel": (layer.kernel_size,), "positions": channels, "output_size": (channels,)}
    call.cost("conv", 2, 1, stride=(1,), weight="weight", **sizes)
    return call.fixed_unit("its attention runs over neighbouring channels")
