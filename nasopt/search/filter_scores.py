"""Scores of channels by the weights that write and read them: which to remove first, without data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from nasopt.errors import ConfigError, nearest
from nasopt.nn.quantised import QuantisedWeight
from nasopt.search.masks import Masks
from nasopt.search.model import SearchModel
from nasopt.ste import binary_weight

Score = Literal["interaction", "own", "gamma", "random"]
SCORES = ("interaction", "own", "gamma", "random")
Quantizer = Callable[[Tensor], Tensor]


@torch.no_grad()
def filter_scores(model: SearchModel, score: Score = "interaction", quantizer: Quantizer | None = None) -> Tensor:
    """A score per unit of the channel masks, `(units,)`; the highest are removed first.

    - `"interaction"`: mean of `1 - cos(v, q(v))` over the kernels v of the *next* layers that read the channel: where they
      have not come near their rounded copies, what they read was of little use.
    - `"own"`: the same of the filters that write the channel.
    - `"gamma"`: minus the size of the norm's scale.
    - `"random"`: random numbers of the global generator.

    Source: Guerra, dissertation, ch. 4.

    Args:
        model: with masks of channels.
        score: which.
        quantizer: `weight -> rounded copy` for layers in floats; None: signs with one scale. Quantised layers round
            themselves.

    Raises:
        ConfigError: an unknown score, or a model without masks.
    """
    if score not in SCORES:
        hint = nearest(score, SCORES) if isinstance(score, str) else ""
        raise ConfigError(f"score: unknown {score!r}: known are {', '.join(SCORES)}.{hint}")
    if model.masks is None:
        raise ConfigError("filter_scores: the model has no masks of channels: give a PIT")
    masks = model._prepared.decisions.masks
    units = masks.channels.units
    if score == "random":
        return torch.rand(units)
    sums, counts = torch.zeros(units + 1), torch.zeros(units + 1)
    parts = {"interaction": _readers, "own": _writers, "gamma": _norms}[score]
    for slots, values in parts(model, masks, quantizer):
        inside = torch.where(slots <= units, slots, 0)  # what follows a choice has no unit
        sums.index_add_(0, inside, values.float().cpu())
        counts.index_add_(0, inside, torch.ones(len(inside)))
    # What nothing is known of is removed last.
    return torch.where(counts > 0, sums / counts.clamp(min=1), -torch.inf)[1:]


def _readers(model: SearchModel, masks: Masks, quantizer: Quantizer | None) -> Iterator[tuple[Tensor, Tensor]]:
    slots = torch.split(masks._constants.on(torch.device("cpu"))[0], masks._lengths)
    for name, own in masks.of_layer.items():
        layer = model.net.get_submodule(name)
        for mask in own:
            for dim, position in mask.vectors.items():
                weight = layer.get_parameter(mask.weight)
                if position < len(slots) and weight.dim() > 1:
                    yield slots[position], _angles(weight, _rounded(layer, weight, quantizer), dim)


def _writers(model: SearchModel, masks: Masks, quantizer: Quantizer | None) -> Iterator[tuple[Tensor, Tensor]]:
    for name in {writer for group in model.analysis.searchable for writer in group.writers}:
        layer = model.net.get_submodule(name) if name in dict(model.net.named_modules()) else None
        weight = getattr(layer, "weight", None)
        dim = getattr(layer, "output_dim", 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0)
        labels = model.analysis.facts.slices.get((model.analysis.facts.canonical(f"{name}.weight"), dim))
        if layer is not None and isinstance(weight, Tensor) and weight.dim() > 1 and labels is not None:
            rows = weight.transpose(0, dim).flatten(1)
            copies = _rounded(layer, weight, quantizer).transpose(0, dim).flatten(1)
            yield masks._slots_of(labels), 1 - torch.cosine_similarity(rows, copies, dim=1)


def _norms(model: SearchModel, masks: Masks, _: Quantizer | None) -> Iterator[tuple[Tensor, Tensor]]:
    for name, norm in model.net.named_modules():
        if isinstance(norm, _NormBase) and norm.weight is not None:
            labels = model.analysis.facts.slices.get((model.analysis.facts.canonical(f"{name}.weight"), 0))
            if labels is not None:
                yield masks._slots_of(labels), -norm.weight.abs()


def _rounded(layer: nn.Module, weight: Tensor, quantizer: Quantizer | None) -> Tensor:
    if isinstance(layer, QuantisedWeight) and weight is layer.weight:
        return layer.quantised_weight()
    return binary_weight(weight) if quantizer is None else quantizer(weight)


def _angles(weight: Tensor, copy: Tensor, dim: int) -> Tensor:
    """Mean of `1 - cos` over all kernels along a dimension; of kernels of one tap those of all outputs are one vector."""
    kernels = weight.movedim(dim, 0).flatten(1) if weight[0, 0].numel() == 1 else weight.movedim(dim, 0).flatten(2)
    copies = copy.movedim(dim, 0).reshape(kernels.shape)
    angles = 1 - torch.cosine_similarity(kernels, copies, dim=-1)
    return angles if angles.dim() == 1 else angles.mean(1)
