"""Layers of functions: `F.conv2d(x, self.weight, self.bias)` in a module of its own becomes a layer, which can be quantised.

The layer takes the place of the module that holds weight and bias, so all names stay what they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

_CONVOLUTIONS: dict[Any, type[nn.Module]] = {
    **dict.fromkeys((F.conv1d, torch.conv1d), nn.Conv1d),
    **dict.fromkeys((F.conv2d, torch.conv2d), nn.Conv2d),
    **dict.fromkeys((F.conv3d, torch.conv3d), nn.Conv3d),
}
FUNCTIONS = (*_CONVOLUTIONS, F.linear, torch._C._nn.linear)
"""Functions with weights that may become layers."""
_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def use_layers(module: fx.GraphModule) -> None:
    """Let layers compute what functions compute with weights that nothing else uses, in place."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in FUNCTIONS:
            given = {**dict(zip(_NAMES, node.args)), **node.kwargs}
            owner = _owner(module, node, given)
            if owner is not None:
                _replace(module, node, given, owner)
    module.graph.lint()
    module.recompile()


def _owner(module: fx.GraphModule, node: fx.Node, given: dict[str, Any]) -> str | None:
    """Path of the module that holds the weight and the bias of a call and nothing else that the graph uses."""
    weight: Any = given.get("weight")
    bias = given.get("bias")
    if not _is_attribute(weight) or not (bias is None or _is_attribute(bias)):
        return None
    owner, _, name = str(weight.target).rpartition(".")
    paths = {str(one.target) for one in (weight, bias) if one is not None}
    if not owner or name != "weight" or not paths <= {f"{owner}.weight", f"{owner}.bias"}:
        return None
    settings = [value for key, value in given.items() if key not in ("input", "weight", "bias")]
    if any(isinstance(leaf, fx.Node) for leaf in pytree.tree_leaves(settings)):
        return None
    inside = [one for one in module.graph.nodes if str(one.target).startswith(f"{owner}.") and one.op != "output"]
    held: Any = module.get_submodule(owner)
    tensors = {f"{owner}.{key}" for key, _ in held.named_parameters()} | {
        f"{owner}.{key}" for key, _ in held.named_buffers()
    }
    shared = [p for path, p in module.named_parameters(remove_duplicate=False) if path not in paths]
    own = [module.get_parameter(path) for path in paths]
    is_own = all(set(one.users) == {node} for one in inside) and {str(one.target) for one in inside} == paths
    return owner if is_own and tensors == paths and not any(p is q for p in shared for q in own) else None


def _is_attribute(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.op == "get_attr" and isinstance(value.meta["value"], Tensor)


def _replace(module: fx.GraphModule, node: fx.Node, given: dict[str, Any], owner: str) -> None:
    held: Any = module.get_submodule(owner)
    weight, bias = held.weight, held._parameters.get("bias") if given.get("bias") is not None else None
    with torch.device("meta"):
        if node.target in _CONVOLUTIONS:
            groups = given.get("groups", 1)
            settings = {name: given[name] for name in ("stride", "padding", "dilation", "groups") if name in given}
            kind: Any = _CONVOLUTIONS[node.target]
            layer = kind(weight.shape[1] * groups, len(weight), weight.shape[2:], bias=bias is not None, **settings)
        else:
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight, layer.bias = weight, bias
    layer.training = held.training
    parent, _, name = owner.rpartition(".")
    setattr(module.get_submodule(parent), name, layer)
    with module.graph.inserting_before(node):
        call = module.graph.call_module(owner, (given["input"],))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    unused = [one for one in (node, given["weight"], given.get("bias")) if one is not None]
    for one in unused:
        module.graph.erase_node(one)
