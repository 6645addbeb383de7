"""Expansion of layers into the torch functions that they call, so that a network needs no classes but torch's."""

from __future__ import annotations

from torch import fx, nn


def expand_layers(network: nn.Module) -> fx.GraphModule:
    """The network in eval mode as a graph of torch's own layers and functions; it must be traceable, and stays as it is.

    ```python
    # MultiHeadDepthwise, a sum   ->  conv2d with a multiplier, unflatten, sum, relu
    # ReafConv2d                  ->  unflatten, one select per group that is read, cat, conv2d with groups
    ```
    """
    traced = fx.symbolic_trace(network)
    traced.eval()
    return traced
