"""Successive elimination: the worst branches of choices leave a search one after the other, until one is left.

A branch that is gone runs in no step, has no probability, and its parameters have left the optimizers; what goes on is the search
of a seed that never had it. Its weights stay where they are until `arch_export`, so that names and state dicts stay the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nasopt.cost import RatioMetric, get_metric
from nasopt.errors import ConfigError
from nasopt.graph.branches.markers import Choice, WidthSite, choices_of
from nasopt.search.priced import PricedModel
from nasopt.search.shrink import check_optimizers
from nasopt.search.shrunk import beginning


def eliminate(model: PricedModel, optimizers: Sequence[Optimizer], share: float, when: Any) -> dict[str, Any]:
    """See `SearchModel.drop_branches`."""
    check_optimizers(model, optimizers)
    choices = _eliminable(model)
    scores = model._prepared.decisions.choices.scores(model._architecture_parameters()["choice_logits"])
    left = {path: list(own) for path, own in model._prepared.decisions.choices.options.items()}
    for path, choice in choices.items():
        spare = len(choice.kinds) - len(choice.zeros) - choice.keep
        most = choice.keep + math.ceil(share * spare - 1e-9)
        # The worst first, of equal ones the last; but what is left has to hold a network inside the limits.
        for branch in sorted(left[path], key=lambda i: (scores[path][i], -i)):
            if len(left[path]) <= most:
                break
            without = [i for i in left[path] if i != branch]
            if _fits(model, {**left, path: without}):
                left[path] = without
    gone = {path: frozenset(range(len(c.kinds))) - set(left[path]) - c.zeros for path, c in choices.items()}
    return drop(model, gone, optimizers, when)


def has_branches(model: PricedModel) -> bool:
    """Whether there is anything to choose from."""
    return model.choices is not None and bool(model._prepared.decisions.choices.names)


def _eliminable(model: PricedModel) -> dict[str, Choice]:
    """Choices between branches that are weighed against each other."""
    found = choices_of(model.net)
    return {path: c for path, c in found.items() if not isinstance(c, WidthSite) and len(c.groups) == 1}


def _fits(model: PricedModel, left: Mapping[str, Sequence[int]]) -> bool:
    decisions, parameters = model._prepared.decisions, model._architecture_parameters()
    limits = [pair for pair in model.regularizer.limits if not isinstance(pair[0], RatioMetric)]
    with torch.no_grad():
        return all(float(decisions.price(m, decisions.smallest(parameters, m, left))) <= limit for m, limit in limits)


def drop(
    model: PricedModel, gone: Mapping[str, frozenset[int]], optimizers: Sequence[Optimizer], when: Any
) -> dict[str, Any]:
    """Take branches out of a search; `gone` holds all that are gone then, by choice."""
    choices = choices_of(model.net)
    new = {path: sorted(own - choices[path].gone) for path, own in gone.items() if own > choices[path].gone}
    report: dict[str, Any] = {"when": when, "channels": {}, "kernels": {}, "branches": new}
    if not new:
        return report
    metrics = [*(metric for metric, _ in model.regularizer.weights), get_metric("size"), get_metric("macs")]
    shrunk = model.shrunk or beginning(model.analysis, {metric.name: model._seed_cost(metric) for metric in metrics})
    for path in new:
        choices[path].gone = gone[path]
        shrunk.branches[path] = sorted(gone[path])
    prefixes = tuple(f"{path}.branches.{branch}." for path, own in new.items() for branch in own)
    _forget(model, _only_in(model.net, prefixes), optimizers)
    joint = model._prepared.joint_steps
    _switch_off(model, prefixes)
    model._prepare()
    model._prepared.outdated_ddp = None if joint is None else joint.ddp
    model.shrunk = shrunk
    model._relate()
    shrunk.history.append(report)
    return report


def _only_in(net: nn.Module, prefixes: tuple[str, ...]) -> list[nn.Parameter]:
    """Parameters of nothing but these branches."""
    elsewhere = {id(p) for name, p in net.named_parameters(remove_duplicate=False) if not name.startswith(prefixes)}
    return [p for name, p in net.named_parameters() if name.startswith(prefixes) and id(p) not in elsewhere]


def _forget(model: PricedModel, parameters: Sequence[nn.Parameter], optimizers: Sequence[Optimizer]) -> None:
    """Let nothing train these parameters any more."""
    known = {id(p) for p in parameters}
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in known]
        for parameter in parameters:
            optimizer.state.pop(parameter, None)


@torch.no_grad()
def _switch_off(model: PricedModel, prefixes: tuple[str, ...]) -> None:
    """Masks of channels that these branches alone make are off, so that they hold no channel of others."""
    searchable, channels = model.analysis.searchable, model._prepared.decisions.masks.channels
    inside = [i for i, group in enumerate(searchable) if all(f"{w}.".startswith(prefixes) for w in group.writers)]
    alpha = model._architecture_parameters()["alpha"]
    if len(alpha):
        alpha[torch.isin(channels.unit_group, torch.tensor(inside, dtype=torch.int64)).to(alpha.device)] = 0.0


def follow_branches(model: PricedModel, given: Mapping[str, Sequence[int]]) -> None:
    """Drop the branches that a model had dropped whose state is loaded.

    Raises:
        ConfigError: the model has dropped others already.
    """
    choices = choices_of(model.net)
    for path, choice in choices.items():
        if not choice.gone <= set(given.get(path, ())):
            raise ConfigError(
                f"load_state_dict: branches of {path!r} that the state holds are gone here: load it into a fresh search model of "
                "the seed"
            )
    drop(model, {path: frozenset(own) for path, own in given.items()}, (), None)
