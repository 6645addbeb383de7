"""Walks over activations of a network whose kernels are cut: what pads or crops before them is there while they are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from nasopt.graph.facts import Facts
from nasopt.graph.kernels import KernelCut, cut_geometry

_GEOMETRY = ("kernel_size", "dilation", "padding", "padding_mode", "_reversed_padding_repeated_twice")


@contextmanager
def kernels_cut(module: fx.GraphModule, facts: Facts, cuts: Mapping[str, KernelCut]) -> Iterator[None]:
    """Let layers have the geometry that export will give them, and the graph the calls before them; all is put back."""
    before = list(module.graph.nodes)
    arguments = {node: (node.args, node.kwargs) for node in before if str(node.target) in cuts}
    layers: dict[str, Any] = {name: module.get_submodule(name) for name in cuts}
    geometry = {name: {key: getattr(layer, key) for key in _GEOMETRY} for name, layer in layers.items()}
    added: list[fx.Node] = []
    try:
        for name, cut in cuts.items():
            cut_geometry(module, name, cut)
        old = set(before)
        added = [node for node in module.graph.nodes if node not in old]
        for node in reversed(added):  # each is where the convolution is that reads it in the end
            facts.regions[node] = facts.regions[next(iter(node.users))]
        for node in added:
            _describe(node, facts)
        yield
    finally:
        for node, (args, kwargs) in arguments.items():
            node.args, node.kwargs = args, kwargs
        for node in reversed(added):
            module.graph.erase_node(node)
            facts.activations.discard(node)
            facts.values.pop(node, None)
            facts.regions.pop(node, None)
        for name, layer in layers.items():
            vars(layer).update(geometry[name])


def _describe(node: fx.Node, facts: Facts) -> None:
    source: Any = node.args[0]
    amounts: Any = node.args[1]
    mode: Any = node.kwargs["mode"]
    with torch.no_grad():
        value = F.pad(source.meta["value"], amounts, mode)
    node.meta = {**source.meta, "value": value}
    facts.activations.add(node)
    facts.values[node] = facts.values.get(source)
