"""The forward pass of a search model: vectors of masks and active branches, handed to the traced network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nasopt.graph.branches.run import Paths
from nasopt.search.deciding import DecidingModel


def run(model: DecidingModel, inputs: tuple[Any, ...], every_branch: bool = False) -> Any:
    """The output of the traced network under the current decisions; in train mode, until it is decided, of a drawn step.

    With `every_branch` it is the mean of all branches.
    """
    prepared, parameters = model._prepared, model._architecture_parameters()
    masks, choices = prepared.decisions.masks, prepared.decisions.choices
    if not choices.names:
        thresholds = model._decide().thresholds
        vectors = masks.vectors(masks.slots(parameters, thresholds=thresholds), parameters, thresholds)
        if _do_nothing(vectors):
            return model.net.forward(*inputs)
        return prepared.forward(model.net, vectors, *inputs)
    paths = _means(model) if every_branch else _paths(model)
    if every_branch:
        slots = masks.any_branch(masks.slots(parameters))
        return prepared.forward(model.net, masks.vectors(slots, parameters), paths, *inputs)
    if model._explores and choices.settings.paths != "sampled":
        slots = masks.any_branch(masks.slots(parameters))
        vectors = masks.vectors(slots, parameters)
        return prepared.forward(model.net, vectors, _fold_masks(model, paths, slots), *inputs)
    # One branch runs: what reads the choice sees its mask. Its weight gets its gradient from the output alone.
    branches, decided = model._branch_probabilities()
    slots = masks.slots(parameters, branches.detach(), decided.thresholds)
    return prepared.forward(model.net, masks.vectors(slots, parameters, decided.thresholds), paths, *inputs)


def _do_nothing(vectors: tuple[Tensor, ...]) -> bool:
    """Whether masks neither learn nor hide anything, as in a warm-up, or when what is off has left."""
    if torch.compiler.is_compiling() or any(vector.requires_grad for vector in vectors):
        return False
    return not vectors or bool((torch.cat(vectors) == 1).all())


def _paths(model: DecidingModel) -> Paths:
    """Draw a training step, or decide."""
    model.check_architecture()
    choices = model._prepared.decisions.choices
    if not model._explores:
        kept = choices.kept(model._decide().branches, model.choice_logits.device)
        return Paths(model.net, kept)
    logits = model._architecture_parameters()["choice_logits"]
    model._draw = choices.draw(logits, model.temperatures)
    weights = choices.weights(logits, model.temperatures, model._draw)
    return Paths(model.net, choices.active(weights, model._draw))


def _means(model: DecidingModel) -> Paths:
    """All branches of every choice alike."""
    like = model._architecture_parameters()["choice_logits"].detach()
    return Paths(model.net, model._prepared.decisions.choices.means(like))


def _fold_masks(model: DecidingModel, paths: Paths, slots: Tensor) -> Paths:
    """The branches' own masks, multiplied to their weights: `theta_i m_i` per channel, no further activation."""
    active = list(paths.active)
    for choice, of_branch in model._prepared.decisions.masks.branch_masks(slots):
        position = model._prepared.decisions.choices.names.index(choice)
        active[position] = [
            one._replace(weight=_weighted(of_branch[one.branch], one.weight)) for one in active[position]
        ]
    return Paths(paths.net, active)


def _weighted(mask: Tensor, weight: Tensor | None) -> Tensor:
    return mask if weight is None else weight * mask.to(weight.dtype)
