"""Norms behind transposed convolutions, folded into their weights: converters do so for other convolutions alone."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils import _pytree as pytree

from nasopt.graph.edit import put_module


def fold_norms(network: nn.Module, arguments: tuple[list[Any], dict[str, Any]]) -> nn.Module:
    """The network with every norm that reads nothing but a transposed convolution folded into that; in eval mode.

    Args:
        network: it stays as it is.
        arguments: `(args, kwargs)` of its `forward`.
    """
    pairs = _pairs(network, arguments)
    if not pairs:
        return network
    folded = copy.deepcopy(network)
    for conv_path, norm_path in pairs:
        conv: Any = folded.get_submodule(conv_path)
        norm: Any = folded.get_submodule(norm_path)
        put_module(folded, conv_path, fuse_conv_bn_eval(conv, norm, transpose=True))
        put_module(folded, norm_path, nn.Identity())
    before, after = (_outputs(one, arguments) for one in (network, folded))
    # Where somebody reads the convolution itself, too, the norm stays.
    return folded if all(torch.allclose(a, b, 1e-3, 1e-4) for a, b in zip(before, after, strict=True)) else network


def _outputs(network: nn.Module, arguments: tuple[list[Any], dict[str, Any]]) -> list[Tensor]:
    args, kwargs = arguments
    with torch.no_grad():
        return [x for x in pytree.tree_leaves(network(*args, **kwargs)) if isinstance(x, Tensor)]


def _pairs(network: nn.Module, arguments: tuple[list[Any], dict[str, Any]]) -> list[tuple[str, str]]:
    """Paths of transposed convolutions and of the norms behind them, which run once and have no other reader."""
    written: dict[int, tuple[str, Tensor]] = {}  # by identity; the tensor is kept alive
    calls: dict[str, int] = {}
    found: list[tuple[str, str]] = []
    handles = []

    def hook(path: str) -> Any:
        def run(module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
            calls[path] = calls.get(path, 0) + 1
            if isinstance(module, nn.modules.conv._ConvTransposeNd):
                if module.groups == 1:
                    written[id(result)] = path, result
            elif given and id(given[0]) in written:
                found.append((written[id(given[0])][0], path))

        return run

    kinds = (nn.modules.conv._ConvTransposeNd, nn.modules.batchnorm._BatchNorm)
    for path, module in network.named_modules():
        if isinstance(module, kinds):
            handles.append(module.register_forward_hook(hook(path)))
    try:
        _outputs(network, arguments)
    finally:
        for handle in handles:
            handle.remove()
    once = [pair for pair in found if all(calls[path] == 1 for path in pair)]
    return [pair for pair in once if network.get_submodule(pair[1]).running_var is not None]
