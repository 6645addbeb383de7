"""Building a network from a structure: the channels, taps and branches that it names, cut out of a traced seed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from nasopt.errors import ConfigError, nearest
from nasopt.graph.branches.decided import decide, rename, shorter_names
from nasopt.graph.branches.markers import SITE, WidthSite, choices_of
from nasopt.graph.branches.regions import Decisions
from nasopt.graph.containers import like_seed
from nasopt.graph.example import Example
from nasopt.graph.groups import Analysis, analyse
from nasopt.graph.kernels import AxisCut, KernelCut, kernel_size
from nasopt.graph.registry import has_searchable_kernel
from nasopt.graph.slim import slim


def build(
    module: fx.GraphModule, example: Example, structure: Mapping[str, Any], analysis: Analysis | None = None
) -> fx.GraphModule:
    """The network that a structure describes, from the traced seed, which stays as it is.

    Args:
        module: from `trace_model`.
        example: the inputs that it was traced with.
        structure: as `nasopt.search.structure.make_structure` makes it.
        analysis: of `module`, where it is known; a structure that decides choices has one of its own.

    Raises:
        ConfigError: the structure names layers, channels or branches that the seed does not have.
    """
    decisions = _decisions(module, structure.get("choices", {}))
    names = shorter_names(module, decisions)
    if decisions:
        module = decide_widths(decide(module, decisions), decisions)
    if decisions or analysis is None:
        analysis = analyse(module, example)
    keep = keep_labels(analysis, structure["channels"])
    kernels = {layer: kernel_cut(analysis, layer, axes) for layer, axes in structure["kernels"].items()}
    network = slim(analysis, keep, kernels, example.inputs)
    if names:
        return rename(network, names)
    like_seed(network)
    return network


def keep_labels(analysis: Analysis, channels: Mapping[str, Sequence[int]]) -> Tensor:
    """One bool per label, from the positions that layers keep.

    Raises:
        ConfigError: a layer does not exist or has fewer channels, channels are fixed in this seed, or layers whose channels
            live and die together keep different ones.
    """
    keep = torch.ones(len(analysis.labels), dtype=torch.bool)
    written: dict[str, Tensor] = dict(analysis.facts.writers)
    for layer, kept in channels.items():
        if layer not in written or max(kept) >= len(written[layer]):
            have = len(written[layer]) if layer in written else "no"
            raise ConfigError(f"the structure keeps channels {kept} of {layer!r}, the seed has {have} channels there")
        labels = written[layer]
        dead = torch.ones(len(labels), dtype=torch.bool)
        dead[list(kept)] = False
        # What nobody reads may go: in the search space, another branch has passed it on.
        if bool(analysis.labels.is_fixed(labels[dead]).any()):
            reasons = {group.reason for group in analysis.groups if layer in group.writers and group.reason}
            raise ConfigError(
                f"the structure removes channels of {layer!r} that are fixed in this seed: {'; '.join(sorted(reasons))}. It "
                "belongs to another model"
            )
        keep[analysis.roots[labels[dead]]] = False
    keep = keep[analysis.roots]
    for layer, labels in written.items():
        found = torch.nonzero(keep[labels]).reshape(-1).tolist()
        wanted = list(channels.get(layer, range(len(labels))))
        if found != wanted:
            raise ConfigError(
                f"the structure contradicts itself: {layer!r} keeps {len(wanted)} of {len(labels)} channels, and layers whose "
                f"channels live and die with them {len(found)} others. It is damaged, or belongs to another model"
            )
    return keep


def kernel_cut(analysis: Analysis, layer: str, axes: Sequence[Sequence[int]]) -> KernelCut:
    try:
        found: Any = analysis.module.get_submodule(layer)
    except AttributeError:
        found = None
    if found is None or not has_searchable_kernel(found):
        raise ConfigError(f"the structure cuts the kernel of {layer!r}, which is no convolution of the seed")
    sizes = kernel_size(found)
    cut = tuple(AxisCut(*axis) for axis in axes)
    if len(cut) != len(sizes) or any(a.first + (a.count - 1) * a.step >= size for a, size in zip(cut, sizes)):
        raise ConfigError(
            f"the structure keeps taps {list(map(list, axes))} ([first, step, count] per dimension) of {layer!r}, the seed has a "
            f"kernel of {tuple(sizes)} there"
        )
    return cut


def decide_widths(module: fx.GraphModule, decisions: Decisions) -> fx.GraphModule:
    """A copy with the chosen width of every layer and tensor class that had several; without any, `module` itself."""
    layers = dict(module.named_modules())
    sites = {path.rpartition(".")[0]: kept for path, kept in decisions.items() if path.endswith(f".{SITE}")}
    sites = {path: kept for path, kept in sites.items() if SITE in getattr(layers.get(path), "_modules", ())}
    if not sites:
        return module
    module = copy.deepcopy(module)
    for path, kept in sites.items():
        layer: Any = module.get_submodule(path)
        site: WidthSite = layer._modules[SITE]
        if site.channels is None:
            layer.keep_width(kept[0])
        else:
            layer.keep_widths(site.positions_of(kept))
        del layer._modules[SITE]
    return module


def _decisions(module: fx.GraphModule, decided: Mapping[str, int | Sequence[int]]) -> Decisions:
    choices = choices_of(module)
    for path in {**decided, **choices}:
        if path not in choices:
            raise ConfigError(
                f"the structure chooses a branch of {path!r}, the seed has no choice there.{nearest(path, choices)} It belongs "
                "to the model that was searched, with its alternatives in it: with_candidates(model, ...) once more, for example"
            )
        if path not in decided:
            raise ConfigError(
                f"the seed has branches to choose from at {path!r}, and the structure says nothing of them"
            )
    found: dict[str, tuple[int, ...]] = {}
    for path, choice in choices.items():
        given = decided[path]
        found[path] = (given,) if isinstance(given, int) else tuple(given)
        count = len(choice.kinds)
        fits = bool(found[path]) and all(branch in range(count) for branch in found[path])
        if isinstance(choice, WidthSite):  # one of every channel
            fits = fits and found[path] == choice.branches_of(choice.positions_of(found[path]))
            fits = fits and len(found[path]) == choice.keep
        if not fits:
            raise ConfigError(
                f"the structure chooses branch {given!r} of {path!r}, the seed has {count} branches there"
            )
    return found
