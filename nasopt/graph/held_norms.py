"""Held norms: tensors of `F.batch_norm` that have names of their own become those of a module, whose place a layer can take."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional as F

from nasopt.graph.functional_layers import NORM_NAMES, is_attribute, reads_shape
from nasopt.graph.state import tensors_by_name


def hold_norms(module: fx.GraphModule) -> dict[str, str]:
    """Let modules hold what functions normalise with, in place, where nothing else reads it.

    Returns:
        Old path -> new path of what has moved.
    """
    moved: dict[str, str] = {}
    for node in module.graph.nodes:
        if node.target is not F.batch_norm:
            continue
        given = {**dict(zip(NORM_NAMES, node.args)), **node.kwargs}
        tensors = {name: given[name] for name in NORM_NAMES[1:5] if given.get(name) is not None}
        if not tensors or not all(_is_own(module, node, one) for one in tensors.values()):
            continue
        paths = {name: str(one.target) for name, one in tensors.items()}
        owner = next(iter(paths.values())).rpartition(".")[0]
        if owner and paths == {name: f"{owner}.{name}" for name in paths}:
            continue
        place = _free(module, f"{paths.get('weight', paths.get('running_mean', ''))}_norm")
        for name, one in tensors.items():
            moved[paths[name]] = f"{place}.{name}"
            _move(module, paths[name], place, name)
            one.target = f"{place}.{name}"
    module.recompile()
    return moved


def _is_own(module: fx.GraphModule, call: fx.Node, node: Any) -> bool:
    if not is_attribute(node):
        return False
    path = str(node.target)
    named = tensors_by_name(module)
    names = [name for name, tensor in named.items() if tensor is named.get(path)]
    readers = {user for one in module.graph.nodes if one.op == "get_attr" and one.target == path for user in one.users}
    return names == [path] and all(user is call or reads_shape(user) for user in readers)


def _free(module: nn.Module, path: str) -> str:
    taken = {*tensors_by_name(module), *(name for name, _ in module.named_modules())}
    while path in taken:
        path += "_"
    return path


def _move(module: nn.Module, path: str, place: str, name: str) -> None:
    owner, _, own = path.rpartition(".")
    before: Any = module.get_submodule(owner)
    table = before._parameters if own in before._parameters else before._buffers
    tensor: Tensor = table.pop(own)
    parent, _, last = place.rpartition(".")
    holder: Any = module.get_submodule(parent)
    if last not in holder._modules:
        holder.add_module(last, nn.Module())
    target: Any = holder._modules[last]
    if isinstance(tensor, nn.Parameter):
        target.register_parameter(name, tensor)
    else:
        target.register_buffer(name, tensor)
