"""The forward pass of a search model: the traced graph, with masks multiplied to the weights of layers that read channels.

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

from nasopt.graph.branches.markers import choices_of, site_of
from nasopt.graph.branches.run import Paths, compile_graph, nest
from nasopt.graph.groups import Analysis
from nasopt.graph.registry import MaskedRunner, Runner, find_layer_rule, find_rule
from nasopt.nn.quantise import Quantise
from nasopt.nn.quantised import QuantisedWeight
from nasopt.nn.quantised_norm import QuantBatchNorm


@dataclass(frozen=True)
class WeightMask:
    """A mask on one weight: the product of vectors, each along one dimension.

    Attributes:
        weight: parameter path, or name of the node whose value a function takes.
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
        masks_of_node: masks on weights and activations that functions take, by the node's name.
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

    positions = _width_positions(analysis.module, choices)
    canonical = analysis.facts.canonical
    # By place: an argument may have been replaced when its turn comes.
    keys = {node: [_key(n, canonical) for n in node.all_input_nodes] for node in graph.nodes}
    for node in list(graph.nodes):
        at_widths = positions.get(str(node.target)) if node.op == "call_module" else None
        if node.op == "call_module" and (str(node.target) in masks_of_layer or at_widths is not None):
            layer = analysis.module.get_submodule(str(node.target))
            weight_masks = masks_of_layer.get(str(node.target), ())
            with graph.inserting_before(node):
                owner = graph.get_attr(str(node.target))
                vectors = [pick(p) for mask in weight_masks for p in mask.vectors.values()]
                if at_widths is None:
                    run = _layer_runner(layer, weight_masks)
                    masked = graph.call_function(run, (owner, vectors, *node.args), dict(node.kwargs))
                else:
                    run = _width_runner(layer, weight_masks, *at_widths)
                    masked = graph.call_function(run, (owner, vectors, paths, *node.args), dict(node.kwargs))
            masked.meta = dict(node.meta)
            node.replace_all_uses_with(masked)
            graph.erase_node(node)
        for mask in masks_of_node.get(node.name, ()):
            _mask_argument(graph, node, node.all_input_nodes[keys[node].index(mask.weight)], mask, pick)
    if paths is not None:
        nest(graph, analysis.module, choices, paths)
    return compile_graph(graph, type(analysis.module).__name__)


def _width_positions(module: fx.GraphModule, choices: Sequence[str]) -> dict[str, tuple[int | None, int | None]]:
    """Path of every layer that needs to know of a width that is still to choose -> positions of these choices: that of its
    weight (of a norm: that of the layer before), and that of the activation it reads."""
    place = {id(module.get_submodule(path)): i for i, path in enumerate(choices)}

    def of(layer: Any) -> int | None:
        site = None if layer is None else site_of(layer)
        return None if site is None else place.get(id(site))

    found = {}
    for path, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, (Quantise, QuantisedWeight, QuantBatchNorm)):
            weighted = (layer.layer or layer) if isinstance(layer, QuantBatchNorm) else layer
            both = (of(weighted), of(getattr(weighted, "source", None)))
            if both != (None, None):
                found[path] = both
    return found


def _width_runner(
    layer: nn.Module, masks: Sequence[WeightMask], own: int | None, source: int | None
) -> Callable[..., Any]:
    combine = None
    if masks:
        (mask,) = masks
        combine = _vector_product(tuple(mask.vectors), layer.get_parameter(mask.weight).dim())

    def run_at_widths(layer: Any, vectors: Sequence[Tensor], paths: Paths, x: Tensor) -> Tensor:
        active = None if own is None else paths.active[own]
        of_source = None if source is None else paths.active[source]
        return layer.run(x, None if combine is None else combine(vectors), active, of_source)  # type: ignore[no-any-return]

    return _with_hooks(run_at_widths)


def _mask_argument(
    graph: fx.Graph, node: fx.Node, weight: fx.Node, mask: WeightMask, pick: Callable[[int], fx.Node]
) -> None:
    entry = find_rule(node, None)
    with graph.inserting_before(node):
        vectors = [pick(p) for p in mask.vectors.values()]
        if entry is not None and entry.run_masked is not None:
            run = _call_under_mask(entry.run_masked, tuple(mask.vectors), weight.meta["value"].dim())
            masked = graph.call_function(run, (vectors, *node.args), dict(node.kwargs))
            masked.meta = dict(node.meta)
            node.replace_all_uses_with(masked)
            graph.erase_node(node)
            return
        product = graph.call_function(_product(tuple(mask.vectors)), (weight, vectors))
        product.meta = dict(weight.meta)
    node.replace_input_with(weight, product)


def _key(node: fx.Node, canonical: Callable[[str], str]) -> str:
    return canonical(str(node.target)) if node.op == "get_attr" else node.name


def _vector_product(dims: tuple[int, ...], rank: int) -> Callable[[Sequence[Tensor]], Tensor]:
    """`vectors -> mask`: every vector along its dimension of a weight of that rank, multiplied with each other."""

    def combine(vectors: Sequence[Tensor]) -> Tensor:
        shaped = [v.view(-1, *(1,) * (rank - 1 - dim)) if dim < rank - 1 else v for dim, v in zip(dims, vectors)]
        mask = shaped[0]
        for vector in shaped[1:]:
            mask = mask * vector
        return mask

    return combine


def _product(dims: tuple[int, ...]) -> Callable[[Tensor, Sequence[Tensor]], Tensor]:
    """`(weight, vectors) -> weight` times every vector along its dimension."""

    def multiply(weight: Tensor, vectors: Sequence[Tensor]) -> Tensor:
        return weight * _vector_product(dims, weight.dim())(vectors).to(weight.dtype)

    return multiply


def _layer_runner(layer: nn.Module, masks: Sequence[WeightMask]) -> Callable[..., Any]:
    entry = find_layer_rule(layer)
    if entry is not None and entry.run_masked is not None:
        (mask,) = masks
        weight = layer.get_parameter(mask.weight)
        return _run_under_mask(entry.run_masked, _vector_product(tuple(mask.vectors), weight.dim()))
    if entry is not None and entry.run is not None and len(masks) == 1:
        weight = layer.get_parameter(masks[0].weight)
        combine = _vector_product(tuple(masks[0].vectors), weight.dim())
        channels_only = entry.masks_input and tuple(masks[0].vectors) == (1,) and getattr(layer, "groups", 1) == 1
        return _run_lighter(entry.run, combine) if channels_only else _run_with_weight(entry.run, combine)
    return _run_functional(
        masks, torch.func.functional_call if entry is None or entry.run_with is None else entry.run_with
    )


def _run_with_weight(run: Runner, combine: Callable[[Sequence[Tensor]], Tensor]) -> Callable[..., Any]:
    def run_masked(layer: Any, vectors: Sequence[Tensor], x: Tensor) -> Tensor:
        return run(layer, x, layer.weight * combine(vectors).to(layer.weight.dtype))

    return _with_hooks(run_masked)


def _run_under_mask(run: MaskedRunner, combine: Callable[[Sequence[Tensor]], Tensor]) -> Callable[..., Any]:
    def run_masked(layer: Any, vectors: Sequence[Tensor], x: Tensor) -> Tensor:
        return run(layer, x, combine(vectors).to(x.dtype))

    return _with_hooks(run_masked)


def _call_under_mask(run: MaskedRunner, dims: tuple[int, ...], rank: int) -> Callable[..., Any]:
    def call_masked(vectors: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
        return run(_vector_product(dims, rank)(vectors), *args, **kwargs)

    return call_masked


def _run_lighter(run: Runner, combine: Callable[[Sequence[Tensor]], Tensor]) -> Callable[..., Any]:
    """Mask the weight or the input, whichever has fewer elements: the sums that follow are the same."""

    def run_masked(layer: Any, vectors: Sequence[Tensor], x: Tensor) -> Tensor:
        weight = layer.weight
        if x.numel() < weight.numel():
            return run(layer, x * combine(vectors).to(x.dtype), weight)
        return run(layer, x, weight * combine(vectors).to(weight.dtype))

    return _with_hooks(run_masked)


def _with_hooks(run_masked: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Hooks that a user has registered on a layer of the search model fire, as at any call."""

    def run(layer: Any, *given: Any) -> Any:
        *others, x = given
        hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
        if not hooks:
            return run_masked(layer, *others, x)
        layer.forward = lambda x: run_masked(layer, *others, x)
        try:
            return layer(x)
        finally:
            del layer.forward

    return run


def _run_functional(masks: Sequence[WeightMask], run: Callable[..., Any]) -> Callable[..., Any]:
    """Any layer, with masked parameters in the place of its own."""
    products = [(mask.weight, _product(tuple(mask.vectors)), len(mask.vectors)) for mask in masks]

    def run_masked(layer: nn.Module, vectors: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
        start, state = 0, {}
        for name, multiply, count in products:
            state[name] = multiply(layer.get_parameter(name), vectors[start : start + count])
            start += count
        return run(layer, state, args, kwargs)

    return run_masked
