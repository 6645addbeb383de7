"""Held weights: what functions multiply with becomes the weight of a module, which a quantised layer can take the place of.

`F.conv2d(x, w)` may have a weight that `forward` computes (weight norm, standardisation, a scale, a sum of low-rank parts), or
one that has another name than `weight`. In few bits the value is what is rounded, so the module holds the value, as removing
a parametrization leaves it. A matrix that is multiplied with (`x @ w`) is the weight of a linear layer.
"""

from __future__ import annotations

import operator
import warnings
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from nasopt.errors import TraceWarning
from nasopt.graph.edit import changed_parameters
from nasopt.graph.folded import can_fold, fold, folded_parameters, folded_path, upstream, without_layers
from nasopt.graph.functional_layers import FUNCTIONS, is_attribute, reads_shape
from nasopt.graph.held_norms import hold_norms
from nasopt.graph.state import tensors_by_name

_PRODUCTS = (torch.matmul, torch.mm, operator.matmul, "matmul", "mm", "__matmul__")


def hold_weights(module: fx.GraphModule, warns: bool = True) -> dict[str, str | None]:
    """Let modules hold the weights and biases of functions, in place; those that layers hold already stay where they are.

    With `warns`, a `TraceWarning` names what is computed.

    Returns:
        Old path -> new path of what has moved, None of what a computed weight was made of and is gone.
    """
    before = tensors_by_name(module)
    computed = _without_parametrizations(module)
    _use_linear(module)
    wanted: list[tuple[fx.Node, str, str]] = []  # (weight or bias, place of its layer, its name there)
    for node in module.graph.nodes:
        if node.op != "call_function" or node.target not in FUNCTIONS:
            continue
        given = dict(zip(("input", "weight", "bias"), node.args)) | node.kwargs
        tensors = {name: given[name] for name in ("weight", "bias") if given.get(name) is not None}
        if "weight" not in tensors or not all(_is_own(module, node, one) for one in tensors.values()):
            continue
        if all(one.op == "get_attr" for one in tensors.values()):
            owner, _, name = str(given["weight"].target).rpartition(".")
            names = {str(one.target) for one in tensors.values()}
            if owner and name == "weight" and names <= {f"{owner}.weight", f"{owner}.bias"}:
                continue
        place = _place(module, list(tensors.values()), {one for _, one, _ in wanted})
        wanted += [(one, place, name) for name, one in tensors.items()]
    moved = {str(node.target): f"{place}.{name}" for node, place, name in wanted if node.op == "get_attr"}
    computed += [f"{place}.{name}" for node, place, name in wanted if node.op != "get_attr"]
    if wanted:
        _hold(module, wanted)
    if computed and warns:
        warnings.warn(
            f"forward computes {', '.join(computed)}: in few bits the value is rounded and trained, so each is a parameter now "
            "that begins at what forward makes of the seed's; what it was made of is gone",
            TraceWarning,
            stacklevel=4,
        )
    moved |= hold_norms(module)
    after = tensors_by_name(module)
    return {**{name: None for name, tensor in before.items() if after.get(name) is not tensor}, **moved}


def _without_parametrizations(module: fx.GraphModule) -> list[str]:
    """Let plain layers take the places of those with parametrizations that are called as a whole, such as spectral norm.

    Returns paths of what they compute. `remove_parametrizations` would change the class, which copies share.
    """
    found = []
    called = {str(node.target) for node in module.graph.nodes if node.op == "call_module"}
    for path in sorted(called):
        layer: Any = module.get_submodule(path)
        if not (isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)) and parametrize.is_parametrized(layer)):
            continue
        kind: Any = type(layer).__bases__[0]
        plain = kind.__new__(kind)
        vars(plain).update(vars(layer))
        plain._parameters, plain._buffers = dict(layer._parameters), dict(layer._buffers)
        plain._modules = {name: child for name, child in layer._modules.items() if name != "parametrizations"}
        modes = {part: part.training for part in layer.modules()}
        layer.eval()
        lists: Any = layer.parametrizations
        for name, parts in lists.items():
            trained = any(p.requires_grad for p in parts.parameters())
            plain.register_parameter(name, nn.Parameter(getattr(layer, name).detach().clone(), trained))
            found.append(f"{path}.{name}")
        for part, was in modes.items():
            part.training = was
        plain.training = layer.training
        owner, _, own = path.rpartition(".")
        setattr(module.get_submodule(owner), own, plain)
    return found


def _use_linear(module: fx.GraphModule) -> None:
    """Write products of activations and constant matrices as what a linear layer does."""
    for node in list(module.graph.nodes):
        args = list(node.args)
        is_affine = node.target is torch.addmm and not node.kwargs and len(args) == 3
        if not (is_affine or (node.target in _PRODUCTS and not node.kwargs and len(args) == 2)):
            continue
        x, matrix = args[-2:]
        two = all(isinstance(one, fx.Node) and isinstance(one.meta["value"], Tensor) for one in (x, matrix))
        if not two or not _is_constant(matrix) or _is_constant(x) or matrix.meta["value"].dim() != 2:
            continue
        bias = args[0] if is_affine else None
        if x.meta["value"].dim() < 2 or (isinstance(bias, fx.Node) and bias.meta["value"].dim() != 1):
            continue
        with module.graph.inserting_before(node):
            turned = module.graph.call_method("t", (matrix,))
            turned.meta = {**matrix.meta, "value": matrix.meta["value"].t()}
            linear = module.graph.call_function(F.linear, (x, turned, *([] if bias is None else [bias])))
        linear.meta = dict(node.meta)
        node.replace_all_uses_with(linear)
        module.graph.erase_node(node)


def _is_constant(node: fx.Node) -> bool:
    return all(one.op != "placeholder" for one in upstream(node))


def _is_own(module: fx.GraphModule, call: fx.Node, node: Any) -> bool:
    """Whether a tensor of a call is a parameter or made of some, and nothing else reads it."""
    if not isinstance(node, fx.Node) or not all(user is call or reads_shape(user) for user in node.users):
        return False
    if not is_attribute(node):
        return _is_constant(node) and can_fold(module, node)
    path, graph = str(node.target), module.graph
    own = _tensor(module, path)
    names = [name for name, tensor in tensors_by_name(module).items() if tensor is own]
    reads = [one for one in graph.nodes if one.op == "get_attr" and one.target == path]
    # A layer that is called keeps its weight, and so does whatever writes into it.
    stays = not without_layers([path], graph) or path in changed_parameters(graph)
    return own.is_floating_point() and names == [path] and len(reads) == 1 and not stays


def _tensor(module: fx.GraphModule, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)


def _place(module: fx.GraphModule, tensors: list[fx.Node], taken: set[str]) -> str:
    """Path of the layer to be: of the module that holds the weight, or, where that is something else, of the weight."""
    weight = tensors[0]
    path = str(weight.target) if weight.op == "get_attr" else folded_path(weight, ())
    owner, _, name = path.rpartition(".")
    gone = {str(one.target) for one in tensors if one.op == "get_attr"}
    gone |= {p for one in tensors for p in without_layers(folded_parameters(one), module.graph)}
    names = set(tensors_by_name(module)) - gone
    called = {str(node.target) for node in module.graph.nodes if node.op == "call_module"}
    is_free = owner not in called | taken and not names & {f"{owner}.weight", f"{owner}.bias"}
    if owner and name == "weight" and is_free:
        return owner
    free, number = path, 0
    modules = {n for n, _ in module.named_modules()}
    while free in names | taken | modules:
        number += 1
        free = f"{path}_{number}"
    return free


def _hold(module: fx.GraphModule, wanted: list[tuple[fx.Node, str, str]]) -> None:
    trained = {node: any(_requires_grad(module, one) for one in upstream(node)) for node, _, _ in wanted}
    nodes = {node.name: node for node, _, _ in wanted if node.op != "get_attr"}
    fold(module, {name: f"_held_{i}" for i, name in enumerate(nodes)})  # names that are in nobody's way
    held: list[nn.Parameter] = []
    for node, _, _ in wanted:
        owner, _, name = str(node.target).rpartition(".")
        before: Any = module.get_submodule(owner)
        tensor = before._parameters.pop(name, None)
        held.append(nn.Parameter(before._buffers.pop(name)) if tensor is None else tensor)
    for (node, place, name), parameter in zip(wanted, held):
        parent: nn.Module = module
        for part in place.split("."):
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parameter.requires_grad_(trained[node])
        parent.register_parameter(name, parameter)
        node.target = f"{place}.{name}"
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for _, place, _ in wanted:
        parts = f"{place}.parametrizations"
        if not any(path.startswith(f"{parts}.") for path in read):
            module.get_submodule(place)._modules.pop("parametrizations", None)
    module.graph.lint()
    module.recompile()


def _requires_grad(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return any(p.requires_grad for p in module.get_submodule(str(node.target)).parameters())
    return node.op == "get_attr" and bool(getattr(_tensor(module, str(node.target)), "requires_grad", False))
