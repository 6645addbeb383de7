"""How does a search model run? The traced graph, with masks multiplied to the weights of the layers that read channels.

Masks enter as one more argument of the graph's function, so a search model keeps no tensors between steps and its layers
stay plain layers.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from nasopt.graph.alternatives import choices_of
from nasopt.graph.analysis import Analysis
from nasopt.graph.nest import compile_graph, nest
from nasopt.graph.registry import find_layer_rule


@dataclass(frozen=True)
class WeightMask:
    """A mask on one weight: the product of vectors, each along one dimension.

    Attributes:
        weight: parameter path.
        vectors: dimension of the weight -> position in the tuple of masks that the graph's function takes.
    """

    weight: str
    vectors: Mapping[int, int]


def masked_function(
    analysis: Analysis,
    masks_of_layer: Mapping[str, Sequence[WeightMask]],
    masks_of_node: Mapping[str, Sequence[WeightMask]],
) -> Callable[..., Any]:
    """`function(module, masks, *inputs)`: the forward pass of the traced module under masks.

    Where the module has choices between branches: `function(module, masks, paths, *inputs)`, with `Paths`.

    Args:
        analysis: of the traced module.
        masks_of_layer: masks on the weights of layers, by the layer's path.
        masks_of_node: masks on parameters passed directly to functions, by the node's name.
    """
    graph = copy.deepcopy(analysis.module.graph)
    first = next(iter(graph.nodes))
    with graph.inserting_before(first):
        masks = graph.placeholder("nasopt_masks")
        choices = list(choices_of(analysis.module))
        paths = graph.placeholder("nasopt_paths") if choices else None
    picked: dict[int, fx.Node] = {}

    def pick(position: int) -> fx.Node:
        if position not in picked:
            with graph.inserting_before(first):
                picked[position] = graph.call_function(operator.getitem, (masks, position))
        return picked[position]

    for node in list(graph.nodes):
        if node.op == "call_module" and str(node.target) in masks_of_layer:
            layer = analysis.module.get_submodule(str(node.target))
            weight_masks = masks_of_layer[str(node.target)]
            with graph.inserting_before(node):
                owner = graph.get_attr(str(node.target))
                vectors = [pick(p) for mask in weight_masks for p in mask.vectors.values()]
                run = _layer_runner(layer, str(node.target), weight_masks)
                masked = graph.call_function(run, (owner, vectors, *node.args), dict(node.kwargs))
            node.replace_all_uses_with(masked)
            graph.erase_node(node)
        for mask in masks_of_node.get(node.name, ()):
            _mask_argument(graph, analysis, node, mask, pick)
    if paths is not None:
        nest(graph, analysis.module, choices, paths)
    return compile_graph(graph, type(analysis.module).__name__)


def _mask_argument(
    graph: fx.Graph, analysis: Analysis, node: fx.Node, mask: WeightMask, pick: Callable[[int], fx.Node]
) -> None:
    canonical = analysis.propagation.canonical
    weight = next(n for n in node.all_input_nodes if n.op == "get_attr" and canonical(str(n.target)) == mask.weight)
    with graph.inserting_before(node):
        product = graph.call_function(_product(tuple(mask.vectors)), (weight, [pick(p) for p in mask.vectors.values()]))
    node.replace_input_with(weight, product)


def _product(dims: tuple[int, ...]) -> Callable[[Tensor, Sequence[Tensor]], Tensor]:
    """`(weight, vectors) -> weight` times every vector along its dimension; the vectors meet each other first."""

    def multiply(weight: Tensor, vectors: Sequence[Tensor]) -> Tensor:
        mask = None
        for dim, vector in zip(dims, vectors):
            trailing = weight.dim() - 1 - dim
            shaped = vector.view(-1, *(1,) * trailing) if trailing else vector
            mask = shaped if mask is None else mask * shaped
        assert mask is not None
        return weight * mask.to(weight.dtype)

    return multiply


def _layer_runner(layer: nn.Module, path: str, masks: Sequence[WeightMask]) -> Callable[..., Any]:
    entry = find_layer_rule(layer)
    names = [mask.weight for mask in masks]
    products = [_product(tuple(mask.vectors)) for mask in masks]
    counts = [len(mask.vectors) for mask in masks]
    if entry is not None and entry.run is not None and len(masks) == 1:
        run, multiply = entry.run, products[0]

        def run_masked(layer: nn.Module, vectors: Sequence[Tensor], x: Tensor) -> Tensor:
            return run(layer, x, multiply(layer.weight, vectors))  # type: ignore[arg-type]

        return run_masked

    def call_masked(layer: nn.Module, vectors: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
        start, state = 0, {}
        for name, multiply, count in zip(names, products, counts):
            state[name] = multiply(layer.get_parameter(name), vectors[start : start + count])
            start += count
        return torch.func.functional_call(layer, state, args, kwargs)

    return call_masked
