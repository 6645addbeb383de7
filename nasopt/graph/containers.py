"""Containers and plain attributes of a seed, kept in its graph modules, which know paths of layers only.

torch.fx copies a layer to its path and makes every module above it anew, as a plain `nn.Module`. So `net.features[0]`,
`len(net.blocks)` and `net.num_classes` would end with the first trace. What the seed has is noted in `meta`, and put in place
after every step that makes a graph module.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from nasopt.graph.state import copy_parts, with_own_functions

_CONTAINERS, _ATTRIBUTES, _ORDER = "nasopt_containers", "nasopt_attributes", "nasopt_order"
_KINDS: dict[str, type[nn.Module]] = {
    "Sequential": nn.Sequential,
    "ModuleList": nn.ModuleList,
    "ModuleDict": nn.ModuleDict,
}
_PLAIN = (int, float, complex, str, bytes, bool, torch.dtype, torch.device, type(None))


def note_seed(network: fx.GraphModule, seed: nn.Module) -> None:
    """Note in `network` the containers of the seed, with the order of their children, and its plain attributes."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for path, module in seed.named_modules():
        kind = next((kind for kind, container in _KINDS.items() if isinstance(module, container)), None)
        if kind is not None and path:
            found[path] = (kind, tuple(module._modules))
    own = {name: value for name, value in vars(seed).items() if not name.startswith("_") and _is_plain(value)}
    own = {name: value for name, value in own.items() if not hasattr(network, name)}
    order = tuple(seed._modules) if isinstance(seed, nn.Sequential) else None
    network.meta.update({_CONTAINERS: found, _ATTRIBUTES: own, _ORDER: order})
    like_seed(network)


def like_seed(network: fx.GraphModule, renamed: Callable[[str], str] = str) -> None:
    """Put what is noted in place, in `network` and in every deep copy; `renamed` maps noted paths to those of today."""
    noted = {renamed(path): container for path, container in network.meta.get(_CONTAINERS, {}).items()}
    network.meta[_CONTAINERS] = noted
    modules = dict(network.named_modules(remove_duplicate=False))
    for path, (kind, order) in noted.items():
        given = modules.get(path)
        # A layer of the graph that is a container itself, such as a list of parametrizations, is whole.
        if given is None or type(given) not in (nn.Module, _KINDS[kind]) or given._parameters or given._buffers:
            continue
        made = _KINDS[kind]()
        # What is not called any more leaves an Identity, so that the others keep their numbers.
        missing = {name: nn.Identity() for name in order if kind != "ModuleDict"}
        names = [name for name in order if name in given._modules or name in missing]
        names += [name for name in given._modules if name not in order]
        made._modules.update({name: given._modules.get(name, missing.get(name)) for name in names})
        made.training = given.training
        parent, _, name = path.rpartition(".")
        network.get_submodule(parent)._modules[name] = made
    vars(network).update(network.meta.get(_ATTRIBUTES, {}))
    # On the class that fx makes for this one module.
    own: Any = type(network)
    own.__deepcopy__ = _deepcopy
    if network.meta.get(_ORDER) is not None:
        own.__len__, own.__iter__, own.__getitem__, own.__setitem__ = _length, _iterate, _get_item, _set_item


def _sequential(network: fx.GraphModule) -> nn.Sequential:
    """The layers of a seed that is an `nn.Sequential`, in its order; one that is not called any more is an `nn.Identity`."""
    made = nn.Sequential()
    made._modules.update({name: network._modules.get(name, nn.Identity()) for name in network.meta[_ORDER]})
    return made


def _length(network: fx.GraphModule) -> int:
    return len(network.meta[_ORDER])


def _iterate(network: fx.GraphModule) -> Iterator[nn.Module]:
    return iter(_sequential(network))


def _get_item(network: fx.GraphModule, at: int | slice) -> nn.Module:
    return _sequential(network)[at]


def _set_item(network: fx.GraphModule, at: int, layer: nn.Module) -> None:
    setattr(network, network.meta[_ORDER][operator.index(at)], layer)


def plain_attributes(network: fx.GraphModule) -> dict[str, Any]:
    """Attributes of the seed that are plain values, by name."""
    return dict(network.meta.get(_ATTRIBUTES, {}))


def _deepcopy(network: fx.GraphModule, memo: dict[int, Any]) -> fx.GraphModule:
    copy_parts(network, memo)
    twin = fx.GraphModule.__deepcopy__(network, memo)
    with_own_functions(twin, memo)
    like_seed(twin)
    return twin


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    return isinstance(value, _PLAIN)
