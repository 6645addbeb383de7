"""Layers of functions: `F.conv2d(x, self.weight, self.bias)` of a module becomes a layer, which can be quantised.

So does `F.batch_norm` with a module's weights and statistics. The layer takes the place of the module that holds them, with all
else that this holds, so all names stay what they are.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from nasopt.graph.edit import read_what_was_written
from nasopt.graph.written_out import write_out
from nasopt.nn.mode import ByMode

_CONVOLUTIONS: dict[Any, type[nn.Module]] = {
    **dict.fromkeys((F.conv1d, torch.conv1d), nn.Conv1d),
    **dict.fromkeys((F.conv2d, torch.conv2d), nn.Conv2d),
    **dict.fromkeys((F.conv3d, torch.conv3d), nn.Conv3d),
}
_TRANSPOSED: dict[Any, type[nn.Module]] = {
    **dict.fromkeys((F.conv_transpose1d, torch.conv_transpose1d), nn.ConvTranspose1d),
    **dict.fromkeys((F.conv_transpose2d, torch.conv_transpose2d), nn.ConvTranspose2d),
    **dict.fromkeys((F.conv_transpose3d, torch.conv_transpose3d), nn.ConvTranspose3d),
}
FUNCTIONS = (*_CONVOLUTIONS, *_TRANSPOSED, F.linear, torch._C._nn.linear)
"""Functions with weights that may become layers."""
_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED_NAMES = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
NORM_NAMES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
"""Of the arguments of `F.batch_norm`."""
_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_COUNT = "num_batches_tracked"


def use_layers(module: fx.GraphModule) -> None:
    """Let layers compute what functions compute with tensors of a module that nothing else uses, in place.

    Readers of what was written in place read the operation's result then, behind which a value can be rounded.
    """
    read_what_was_written(module.graph)
    write_out(module)
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in FUNCTIONS:
            names = _TRANSPOSED_NAMES if node.target in _TRANSPOSED else _NAMES
            given = {**dict(zip(names, node.args)), **node.kwargs}
            owner = _owner(module, node, given, ("weight", "bias"))
            if owner is not None and given.get("weight") is not None and _has_settings_alone(given):
                _replace(module, node, given, owner, _layer(module, node, given))
        elif node.target is F.batch_norm:
            given = {**dict(zip(NORM_NAMES, node.args)), **node.kwargs}
            owner = _owner(module, node, given, NORM_NAMES[1:5])
            if owner is not None and _is_norm(module, given) and _drop_count(module, owner):
                _replace(module, node, given, owner, _norm(node, given))
    module.graph.lint()
    module.recompile()


def _owner(module: fx.GraphModule, node: fx.Node, given: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """Path of the module that holds the tensors of a call, under a layer's names for them; only this call uses them."""
    tensors: dict[str, Any] = {name: given[name] for name in names if given.get(name) is not None}
    if not tensors or not all(is_attribute(one) for one in tensors.values()):
        return None
    owners = {str(one.target).rpartition(".")[0] for one in tensors.values()}
    owner = owners.pop()
    if owners or not owner or any(str(one.target) != f"{owner}.{name}" for name, one in tensors.items()):
        return None
    paths = {str(one.target) for one in tensors.values()}
    read = [one for one in module.graph.nodes if one.op == "get_attr" and str(one.target) in paths]
    called = any(one.op == "call_module" and str(one.target) == owner for one in module.graph.nodes)
    if called or not all(user is node or reads_shape(user) for one in read for user in one.users):
        return None
    own = [module.get_parameter(f"{owner}.{name}") for name in ("weight", "bias") if name in tensors]
    others = [p for path, p in module.named_parameters(remove_duplicate=False) if path not in paths]
    return None if any(p is q for p in others for q in own) else owner


def is_attribute(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.op == "get_attr" and isinstance(value.meta["value"], Tensor)


def reads_shape(node: fx.Node) -> bool:
    """Whether a call asks a tensor for what no value changes."""
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device")
    return (node.op == "call_method" and node.target in ("size", "dim", "numel")) or node.target is operator.is_


def _has_settings_alone(given: dict[str, Any]) -> bool:
    settings = [value for key, value in given.items() if key not in ("input", "weight", "bias")]
    return not any(isinstance(leaf, fx.Node) for leaf in pytree.tree_leaves(settings))


def _layer(module: fx.GraphModule, node: fx.Node, given: dict[str, Any]) -> nn.Module:
    weight, bias = given["weight"].meta["value"], given.get("bias") is not None
    groups = given.get("groups", 1)
    settings = {name: given[name] for name in _TRANSPOSED_NAMES[3:] if name in given}
    channels = (len(weight), weight.shape[1] * groups)  # of a transposed convolution: in, out
    layer: nn.Module
    kind: Any = _TRANSPOSED.get(node.target)
    with torch.device("meta"):
        if kind is not None:
            layer = kind(*channels, weight.shape[2:], bias=bias, **settings)
        elif node.target in _CONVOLUTIONS:
            kind = _CONVOLUTIONS[node.target]
            layer = kind(*reversed(channels), weight.shape[2:], bias=bias, **settings)
        else:
            layer = nn.Linear(weight.shape[1], len(weight), bias=bias)
    return layer


def _is_norm(module: fx.GraphModule, given: dict[str, Any]) -> bool:
    """Whether a call normalises by the batch in train mode and by its statistics in eval mode."""
    mode: Any = given.get("training")
    follows = module.get_submodule(str(mode.target)) if getattr(mode, "op", None) == "call_module" else None
    is_bool = isinstance(follows, ByMode) and (follows.train_value, follows.evaluation_value) == (True, False)
    numbers = all(isinstance(given.get(name, 0.1), (int, float)) for name in ("momentum", "eps"))
    both = given.get("running_mean") is not None and given.get("running_var") is not None
    return is_bool and numbers and both and (given.get("weight") is None) == (given.get("bias") is None)


def _drop_count(module: fx.GraphModule, owner: str) -> bool:
    """Take out what counts the batches, as the layer does so; False where something else is done with their number."""
    counts = [one for one in module.graph.nodes if one.op == "get_attr" and str(one.target) == f"{owner}.{_COUNT}"]
    users = [user for one in counts for user in one.users]
    if any(user.users or user.target != "add_" for user in users):
        return False
    for one in (*users, *counts):
        module.graph.erase_node(one)
    return True


def _norm(node: fx.Node, given: dict[str, Any]) -> nn.Module:
    channels = len(given["running_mean"].meta["value"])
    kind = _NORMS[given["input"].meta["value"].dim()]
    with torch.device("meta"):
        return kind(channels, given.get("eps", 1e-5), given.get("momentum", 0.1), given.get("weight") is not None)


def _without_count(state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Torch fills in a number of batches where a state has none: a key too many for a layer that counts none."""
    state_dict.pop(f"{prefix}{_COUNT}", None)


def _replace(module: fx.GraphModule, node: fx.Node, given: dict[str, Any], owner: str, layer: nn.Module) -> None:
    """Put a layer into the place of a module, and a call of it into that of a function."""
    held: Any = module.get_submodule(owner)
    for table in ("_parameters", "_buffers", "_modules"):
        getattr(layer, table).update(getattr(held, table))
    if isinstance(layer, tuple(_NORMS.values())) and _COUNT not in held._buffers:
        layer._buffers[_COUNT] = None
        layer._register_load_state_dict_pre_hook(_without_count)
    layer.training = held.training
    parent, _, name = owner.rpartition(".")
    setattr(module.get_submodule(parent), name, layer)
    with module.graph.inserting_before(node):
        call = module.graph.call_module(owner, (given["input"],))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    module.graph.erase_node(node)
    for one in given.values():
        if isinstance(one, fx.Node) and one is not given["input"] and not one.users:
            module.graph.erase_node(one)
