"""The smaller network: sliced layers and parameters, rewritten shape constants, no dead code."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from nasopt.errors import ExportError
from nasopt.graph.edit import remove_dead_code
from nasopt.graph.facts import flatten
from nasopt.graph.folded import fold
from nasopt.graph.groups import Analysis
from nasopt.graph.kernels import KernelCut, cut_kernel
from nasopt.graph.registry import find_rule
from nasopt.graph.rewrite import Rewrite
from nasopt.graph.values import UNKNOWN, Evaluator


def slim(
    analysis: Analysis,
    keep: Tensor,
    kernels: Mapping[str, KernelCut] | None = None,
    inputs: tuple[Any, ...] | None = None,
    folds: bool = True,
) -> fx.GraphModule:
    """The network without the channels and kernel taps that are not kept; `analysis.module` stays as it is.

    Args:
        keep: one bool per label, from `Analysis.keep`.
        kernels: taps kept of some convolutions, by layer name.
        inputs: example inputs, where dtype or device of the module have changed since the analysis.
        folds: whether weights that are computed become parameters; without, their channels must all be kept.

    Raises:
        ExportError: a shape in the smaller graph does not follow the channels; names the node.
    """
    small = copy.deepcopy(analysis.module)
    fold(small, analysis.facts.folded if folds else {})
    _slice_tensors(analysis, keep, small)
    _set_attributes(analysis, keep, small)
    for module in small.modules():
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()  # it keeps its weights in a list, too
    for name, cut in (kernels or {}).items():
        cut_kernel(small, name, cut)
    _rewrite_nodes(analysis, keep, small, inputs)
    remove_dead_code(small.graph)
    small.delete_all_unused_submodules()
    small.graph.lint()
    small.recompile()
    return small


def _slice_tensors(analysis: Analysis, keep: Tensor, small: fx.GraphModule) -> None:
    paths = [path for path, _ in small.named_parameters(remove_duplicate=False)]
    paths += [path for path, _ in small.named_buffers(remove_duplicate=False)]
    sliced: dict[str, Tensor] = {}
    dims = sliced_dims(analysis, keep)
    for path in paths:
        canonical = analysis.facts.canonical(path)
        if canonical not in dims:
            continue
        owner, name = _owner(small, path)
        if canonical not in sliced:
            tensor = getattr(owner, name)
            data = tensor.detach()
            for dim, index in dims[canonical]:
                data = data.index_select(dim, index.to(data.device))
            is_parameter = isinstance(tensor, nn.Parameter)
            sliced[canonical] = nn.Parameter(data, tensor.requires_grad) if is_parameter else data
        if name in owner._parameters:
            owner._parameters[name] = sliced[canonical]  # type: ignore[assignment]
        else:
            owner._buffers[name] = sliced[canonical]


def sliced_dims(
    analysis: Analysis, keep: Tensor, kernels: Mapping[str, KernelCut] | None = None
) -> dict[str, list[tuple[int, Tensor]]]:
    """Canonical path of every parameter and buffer that becomes smaller -> (dimension, positions that are kept) pairs."""
    dims: dict[str, list[tuple[int, Tensor]]] = {}
    for (path, dim), labels in analysis.facts.slices.items():
        if not bool(keep[labels].all()):
            dims.setdefault(path, []).append((dim, torch.nonzero(keep[labels]).reshape(-1)))
    for layer, cut in (kernels or {}).items():
        path = analysis.facts.canonical(f"{layer}.weight")
        dims.setdefault(path, []).extend((2 + i, torch.tensor(axis.taps)) for i, axis in enumerate(cut))
    return dims


def _owner(module: nn.Module, path: str) -> tuple[nn.Module, str]:
    prefix, _, name = path.rpartition(".")
    return module.get_submodule(prefix), name


def _set_attributes(analysis: Analysis, keep: Tensor, small: fx.GraphModule) -> None:
    nodes = {node.name: node for node in small.graph.nodes}
    for attribute in analysis.facts.attributes:
        value = int(keep[attribute.labels].sum()) * attribute.factor
        if attribute.module is not None:
            setattr(small.get_submodule(attribute.module), str(attribute.name), value)
        elif isinstance(attribute.name, int):
            if attribute.name < len(nodes[attribute.node].args):
                nodes[attribute.node].update_arg(attribute.name, value)
        else:
            nodes[attribute.node].update_kwarg(attribute.name, value)


def _rewrite_nodes(
    analysis: Analysis, keep: Tensor, small: fx.GraphModule, inputs: tuple[Any, ...] | None = None
) -> None:
    """Rewrite constants that are channel counts in disguise; check every shape on the way."""
    evaluate = Evaluator(small)
    originals = {node.name: node for node in analysis.module.graph.nodes}
    as_values: dict[fx.Node, dict[str, Any]] = {}
    for user, size in analysis.facts.as_values:
        as_values.setdefault(user, {})[size.name] = size.meta["value"]
    given = iter(inputs or ())
    for node in list(small.graph.nodes):
        original = originals.get(node.name)
        if node.op == "placeholder":
            node.meta["value"] = evaluate.to_fake(next(given, node.meta["value"]))
            continue
        if original in as_values:
            _keep_values(node, as_values[original])
        # What weights are computed from follows its parameters: nothing in it is a number of channels.
        is_weight = original not in analysis.facts.values and node.op != "get_attr"
        if original is None or node.op == "output" or is_weight:
            node.meta["value"] = evaluate(node)
            continue
        rewrite = Rewrite(analysis.facts, keep, node, original)
        entry = find_rule(node, small.get_submodule(str(node.target)) if node.op == "call_module" else None)
        if entry is not None and entry.rewrite is not None and rewrite.is_cut():
            entry.rewrite(rewrite)
        node.meta["value"] = _evaluate(evaluate, node)
        _check_shapes(node, original, rewrite)


def _keep_values(node: fx.Node, numbers: Mapping[str, Any]) -> None:
    """Give a call the seed's numbers of channels in the place of those that have changed."""

    def number(size: fx.Node) -> Any:
        is_other = size.name in numbers and size.meta["value"] != numbers[size.name]
        return numbers[size.name] if is_other else size

    node.args, node.kwargs = fx.node.map_arg((node.args, node.kwargs), number)


def _evaluate(evaluate: Evaluator, node: fx.Node) -> Any:
    try:
        return evaluate(node)
    except Exception as error:
        raise ExportError(
            f"{node.name} ({node.op} {node.target}) does not fit the smaller network: {error}. Its channels can be kept: "
            "name the layers around it in exclude_names, or teach nasopt the operation (nasopt.function_rule)"
        ) from error


def _check_shapes(node: fx.Node, original: fx.Node, rewrite: Rewrite) -> None:
    if node.op == "get_attr" or node.meta["value"] is UNKNOWN:
        return
    found = [tuple(x.shape) for x in flatten(node.meta["value"]) if isinstance(x, Tensor)]
    labels = [x for x in flatten(rewrite.facts.values.get(original)) if isinstance(x, Tensor)]
    expected = [rewrite.new_shape(x) for x in labels]
    # A unit may have further outputs in one mode only (attention weights); those carry no channels.
    if len(labels) == len(found) and found != expected:
        raise ExportError(
            f"{node.name} ({node.op} {node.target}): the smaller network makes {found} where {expected} is wanted. A number "
            "in the model's forward is a channel count in disguise: take it from a tensor's shape, or exclude the layer"
        )
