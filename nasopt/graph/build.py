"""Building a network from a structure: the channels, taps and branches that it names, cut out of a traced seed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from nasopt.errors import ConfigError, nearest
from nasopt.graph.branches.decided import decide, short_names
from nasopt.graph.branches.markers import choices_of
from nasopt.graph.example import Example
from nasopt.graph.groups import analyse
from nasopt.graph.kernels import AxisCut, KernelCut
from nasopt.graph.registry import has_searchable_kernel
from nasopt.graph.slim import slim


def build(module: fx.GraphModule, example: Example, structure: Mapping[str, Any]) -> fx.GraphModule:
    """The network that a structure describes, from the traced seed, which stays as it is.

    Raises:
        ConfigError: the structure names layers, channels or branches that the seed does not have.
    """
    decisions = _decisions(module, structure.get("choices", {}))
    if decisions:
        module = copy.deepcopy(module)
        decide(module, decisions)
    analysis = analyse(module, example)
    keep = torch.ones(len(analysis.labels), dtype=torch.bool)
    written: dict[str, Tensor] = dict(analysis.facts.writers)
    for layer, kept in structure["channels"].items():
        if layer not in written or max(kept, default=-1) >= len(written[layer]) or not kept:
            have = len(written[layer]) if layer in written else "no"
            raise ConfigError(f"the structure keeps channels {kept} of {layer!r}, the seed has {have} channels there")
        labels = written[layer]
        dead = torch.ones(len(labels), dtype=torch.bool)
        dead[kept] = False
        keep[analysis.roots[labels[dead]]] = False
    keep = keep[analysis.roots]
    kernels: dict[str, KernelCut] = {}
    layers = dict(analysis.module.named_modules())
    for layer, axes in structure["kernels"].items():
        found = layers.get(layer)
        if found is None or not has_searchable_kernel(found):
            raise ConfigError(f"the structure cuts the kernel of {layer!r}, which is no convolution of the seed")
        kernels[layer] = tuple(AxisCut(*axis) for axis in axes)
    network = slim(analysis, keep, kernels, example.inputs)
    return short_names(network, decisions) if decisions else network


def _decisions(module: fx.GraphModule, decided: Mapping[str, int]) -> dict[str, int]:
    choices = choices_of(module)
    for path in {**decided, **choices}:
        if path not in choices:
            raise ConfigError(
                f"the structure chooses a branch of {path!r}, the seed has no choice there.{nearest(path, choices)}"
            )
        if path not in decided:
            raise ConfigError(
                f"the seed has branches to choose from at {path!r}, and the structure says nothing of them"
            )
        count = len(choices[path].kinds)
        if decided[path] not in range(count):
            raise ConfigError(
                f"the structure chooses branch {decided[path]!r} of {path!r}, the seed has {count} branches there"
            )
    return dict(decided)
