"""Folded weights: what `forward` computes of parameters in ways that cannot be cut becomes a parameter of the exported network.

A search masks the computed weight and trains what it is made of; the export holds its value, as removing weight norm or a
parametrization would leave it. So the layers around it are searched like any others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from nasopt.graph.edit import is_in_place, remove_dead_code
from nasopt.nn import ByMode

# Names that torch's parametrizations, weight norm by hooks and pruning give to what a weight is made of.
_PARTS = re.compile(
    r"(?:parametrizations\.(?P<of>\w+)\.(?:original\d*|\d+\.[\w.]+)|(?P<by>\w+?)(?:_g|_v|_orig|_mask))$"
)
# They give another weight at every call.
_RANDOM = ("rand", "bernoulli", "dropout", "normal", "uniform", "multinomial", "poisson", "exponential", "gumbel")


def folded_path(node: fx.Node, taken: Collection[str]) -> str:
    """Path of the parameter that takes the place of a node: that of the layer whose weight it is made of, if it is free.

    That is the first one of its shape, or the first one.

    Args:
        node: what computes the weight.
        taken: paths that are something else.
    """
    made_of = [one for one in reversed(upstream(node)) if one.op == "get_attr"]
    shape = node.meta["value"].shape
    first = next((one for one in made_of if getattr(one.meta.get("value"), "shape", None) == shape), made_of[0])
    path = _PARTS.sub(lambda found: found["of"] or found["by"], str(first.target))
    free, number = path, 0
    while free in taken:
        number += 1
        free = f"{path}_computed{number}"
    return free


def can_fold(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node that no input reaches has one value, which a parameter can hold."""
    value = node.meta["value"]
    if node.op == "get_attr" or not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    return all(has_one_value(module, one) for one in upstream(node))


def has_one_value(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a call gives the same whenever it is given the same: nothing is drawn, nothing is written."""
    if node.op == "get_attr":
        return True
    name = str(getattr(node.target, "__name__", node.target))
    if node.op == "call_module":
        # Paths that only train mode takes leave the weight of eval mode alone.
        owner = module.get_submodule(str(node.target))
        return isinstance(owner, ByMode) or not is_in_place(node)
    return not is_in_place(node) and not any(word in name for word in _RANDOM)


def upstream(node: fx.Node) -> list[fx.Node]:
    found: dict[fx.Node, None] = {}
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found[one] = None
            waiting.extend(one.all_input_nodes)
    return list(found)


def folded_parameters(node: fx.Node, others: Iterable[fx.Node] = ()) -> list[str]:
    """Paths of the parameters of a node that nothing needs any more once it, and the others, are parameters themselves."""
    own = upstream(node)
    inside = {one for folded in others for one in upstream(folded)}.union(own)
    attributes = [one for one in own if one.op == "get_attr"]
    found = [str(one.target) for one in attributes if all(user in inside for user in one.users)]
    for path in dict.fromkeys(str(one.target) for one in own if one.op == "call_module"):
        calls = [one for one in node.graph.nodes if one.op == "call_module" and one.target == path]
        if all(one in inside for one in calls) and node.graph.owning_module is not None:
            layer = node.graph.owning_module.get_submodule(path)
            found += [f"{path}.{name}" for name, _ in layer.named_parameters(remove_duplicate=False)]
    return found


def without_layers(paths: Collection[str], graph: fx.Graph) -> list[str]:
    """Paths of parameters without those of layers that the graph calls."""
    called = {f"{one.target}." for one in graph.nodes if one.op == "call_module"}
    return [path for path in paths if not any(path.startswith(layer) for layer in called)]


def fold(network: fx.GraphModule, paths: Mapping[str, str]) -> None:
    """Put parameters of these paths in place of the nodes of these names, with the values of eval mode."""
    nodes = {node.name: node for node in network.graph.nodes}
    made_of = {str(one.target) for name in paths for one in upstream(nodes[name]) if one.op == "get_attr"}
    modes = {module: module.training for module in network.modules()}
    known: dict[fx.Node, Any] = {}
    network.eval()
    try:
        with torch.no_grad():
            values = {name: _value(network, nodes[name], known) for name in paths}
    finally:
        for module, training in modes.items():
            module.training = training
    for name in values:
        node = nodes[name]
        node.op, node.target, node.args, node.kwargs = "get_attr", paths[name], (), {}
    if values:
        remove_dead_code(network.graph)
        _forget(network, made_of - set(paths.values()))
    for name, value in values.items():
        owner, _, own = paths[name].rpartition(".")
        module = network.get_submodule(owner)
        module._buffers.pop(own, None)
        vars(module).pop(own, None)
        module.register_parameter(own, nn.Parameter(value.detach().clone()))


def _forget(network: fx.GraphModule, paths: set[str]) -> None:
    """Drop parameters and buffers that nobody uses any more."""
    called = [str(node.target) for node in network.graph.nodes if node.op == "call_module"]
    used = {str(node.target) for node in network.graph.nodes if node.op == "get_attr"}
    for path in paths - used:
        owner, _, name = path.rpartition(".")
        if not any(owner == one or owner.startswith(f"{one}.") for one in called):
            module = network.get_submodule(owner)
            module._parameters.pop(name, None)
            module._buffers.pop(name, None)


def _value(network: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    if node in known:
        return known[node]
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda one: _value(network, one, known))
    if node.op == "get_attr":
        result: Any = network
        for atom in str(node.target).split("."):
            result = getattr(result, atom)
    elif node.op == "call_module":
        result = network.get_submodule(str(node.target))(*args, **kwargs)
    elif node.op == "call_method":
        result = getattr(args[0], str(node.target))(*args[1:], **kwargs)
    else:
        assert callable(node.target)
        result = node.target(*args, **kwargs)
    known[node] = result
    return result
