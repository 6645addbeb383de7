"""What a network of few bits writes out in parts that have integer forms: padding of other modes, gated linear units."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from nasopt.graph.kernels import padding_of, set_padding


def write_out(module: fx.GraphModule) -> None:
    """In place: what a convolution pads with other numbers than zeros is padded before it, and a GLU is a product."""
    padded: dict[nn.Module, list[fx.Node]] = {}
    for node in list(module.graph.nodes):
        layer: Any = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.modules.conv._ConvNd) and layer.padding_mode != "zeros" and len(node.args) == 1:
            padded.setdefault(layer, []).append(node)
        elif isinstance(layer, nn.GLU):
            _gate(module.graph, node, layer.dim)
        elif node.target is F.glu:
            _gate(module.graph, node, node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", -1))
    for convolution, nodes in padded.items():
        _pad(module.graph, convolution, nodes)
    module.graph.lint()
    module.recompile()


def _pad(graph: fx.Graph, layer: Any, nodes: list[fx.Node]) -> None:
    amounts = [amount for sides in reversed(padding_of(layer)) for amount in sides]
    for node in nodes if any(amounts) else ():
        with graph.inserting_before(node):
            node.args = (_call(graph, F.pad, node.args[0], amounts, mode=layer.padding_mode),)
    layer.padding_mode = "zeros"
    set_padding(layer, (0,) * len(layer.kernel_size))


def _gate(graph: fx.Graph, node: fx.Node, dim: int) -> None:
    x = node.args[0] if node.args else node.kwargs["input"]
    with graph.inserting_before(node):
        both = _call(graph, torch.chunk, x, 2, dim)
        left, right = (_call(graph, operator.getitem, both, i) for i in range(2))
        gated = _call(graph, torch.mul, left, _call(graph, torch.sigmoid, right))
    node.replace_all_uses_with(gated)
    graph.erase_node(node)


def _call(graph: fx.Graph, function: Any, source: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """A call and its value for the example."""
    node = graph.call_function(function, (source, *args), kwargs)
    with torch.no_grad():
        values = [one.meta["value"] if isinstance(one, fx.Node) else one for one in (source, *args)]
        found = function(*values, **kwargs) if isinstance(values[0], (Tensor, tuple)) else source.meta["value"]
    node.meta = {**source.meta, "value": found}
    return node
