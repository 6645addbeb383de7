"""Importance: masks set by rank of their own gradients, under limits that fall over the steps of a search.

The gradient `g` of the task's loss to the mask of a unit (a block of channels, a ring or distance of a kernel) says how much the
loss would change without it. Units are ranked by the root of a running mean of `g^2`, over the mean of that in their group (of
channels that live together, of items along one axis of a kernel) and the fourth root of what the group costs now, and as many as
fit are kept, the highest first (`nasopt.search.settle`). Gradients tell little between groups: many layers read some, one reads
others. Without the cost all layers are cut nearly alike, and after a long training the network is no better than a uniformly
narrower one; with more of it, or with the cost of a single unit, which falls with every channel that goes, small limits leave
layers of one channel between wide ones.

Limits stay at the seed's cost for a tenth of the search, to look around, and then fall in a straight line to the wanted ones,
until two fifths of it are over; then masks rest. Beside widths that are searched masks make up for half of what is too much
until then, the other half is left to the widths. So nothing walks: alpha, beta and gamma are set, and hold the rank of a unit
in relation to the threshold of its group, 1/2. What is off has a gradient, and may come back.

Related: Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019 (squared gradients of gates, without cost
and limits).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.cost import AnyMetric
from nasopt.search.constants import exact_dtype
from nasopt.search.deciding import DecidingModel
from nasopt.search.decisions import ArchParameters, Decisions
from nasopt.search.masks import HALF, THRESHOLD, Masks, Thresholds
from nasopt.search.parameters import MASKS
from nasopt.search.settle import Decided, fill
from nasopt.uncompiled import uncompiled

_OFTEN, _SELDOM = 60, 50  # masks are set about 60 times in a search, at least every 50 steps
_FREE = 1e-3  # what a group costs at least, as a share of the mean: beside a peak that others hold many cost nothing
_KEPT = 1e6  # times the score of what costs nothing
_CLEARLY = 0.51  # what is on is not off by rounding

Limits = Sequence[tuple[AnyMetric, float]]


@dataclass(frozen=True)
class Ranking:
    """How masks are ranked and limits fall; the benchmarks try other values than these.

    Attributes:
        memory: of the running mean.
        look, fall: shares of the search that are over when limits begin to fall, and when they are the wanted ones.
        power: of what the group costs, by which scores are divided.
        share: of the threshold's rank up to which units that are off leave a model that is shrunk; 1: all of them.
    """

    memory: float = 0.99
    look: float = 0.1
    fall: float = 0.4
    power: float = 0.25
    share: float = 1.0


RANKING = Ranking()


class Importance(nn.Module):
    """What a search by importance has seen of the gradients of the masks, and how far it has come.

    Attributes:
        steps: of the search, backward passes.
        start: costs from which the limits fall.
        step: done so far, a buffer of shape `()`.
        has_set: whether masks have been set since somebody has last put it to False.
        alpha, beta, gamma: running means of squared gradients, one per unit or item of a kernel; buffers.
    """

    step: Tensor

    def __init__(self, sizes: Mapping[str, int], steps: int, start: Sequence[float]) -> None:
        super().__init__()
        self.steps, self.start = steps, tuple(start)
        self.first, self.last = round(RANKING.look * steps), round(RANKING.fall * steps)
        self.interval = max(1, min(_SELDOM, steps // _OFTEN))
        self.has_set = False
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size))

    @property
    def is_over(self) -> bool:
        """Whether masks rest."""
        return int(self.step) >= self.last

    def limits(self, wanted: Limits) -> Limits:
        """Limits of this step, between those of the start and the wanted ones."""
        left = 1 - min(max(int(self.step) - self.first, 0) / (self.last - self.first), 1.0)
        return [(metric, limit + left * max(first - limit, 0.0)) for (metric, limit), first in zip(wanted, self.start)]

    def observe(self, gradients: Mapping[str, Tensor]) -> bool:
        """Take the gradients of one step, per unit and item; whether masks are to be set now.

        Gradients that are not finite (mixed precision probes its scale) are left out.
        """
        if self.is_over:
            return False
        if all(bool(gradient.isfinite().all()) for gradient in gradients.values()):
            for name, gradient in gradients.items():
                mean = getattr(self, name)
                mean.lerp_(gradient.square().to(mean), 1 - RANKING.memory)
        self.step += 1
        return self.is_over or int(self.step) % self.interval == 0

    def loss(self, model: DecidingModel) -> Tensor:
        """A scalar whose backward pass is the step of `model` that takes the gradients of the masks.

        It is 0, but where the branches of choices cost more than the limits of this step allow: they pay for that.
        """
        parameters = [p for p in model.arch_parameters() if p.requires_grad]
        if not parameters:
            return next(model.arch_parameters()).new_zeros(())
        total = _Step.apply(self, model, *parameters)
        if model.budget is not None and model.choices is not None:
            decisions, own = model._prepared.decisions, model._architecture_parameters()
            fixed = {name: p.detach() if name in MASKS else p for name, p in own.items()}
            at = decisions.at(fixed, *model._branch_probabilities(fitted=False))
            limits = self.limits(model.budget.limits)
            total = total + model.budget([decisions.price(metric, at) for metric, _ in limits], limits).to(total)
        return total

    @torch.no_grad()
    def set_masks(self, model: DecidingModel, finish: bool = False) -> None:
        """Set masks by what is known now; with `finish`, under the wanted limits and for good."""
        assert model.budget is not None
        if finish and not self.is_over:
            self.step.fill_(self.last)
        decisions, parameters = model._prepared.decisions, model._architecture_parameters()
        logits, branches = parameters["choice_logits"], parameters["choice_logits"]
        if decisions.choices.names:
            branches = decisions.choices.flat(decisions.choices.probabilities(logits, model.temperatures))
        if any(name in parameters and len(parameters[name]) for name in MASKS):
            limits = self.limits(model.budget.limits)
            if decisions.choices.sites and not self.is_over:
                limits = [(metric, _part(decisions, branches, metric, limit)) for metric, limit in limits]
            found = ranked(decisions, parameters, branches, self, limits)
            for name, value in found.items():
                parameters[name].copy_(value)
            self.has_set = True
        if self.is_over:
            model.budget.reached.fill_(True)


def _part(decisions: Decisions, branches: Tensor, metric: AnyMetric, limit: float) -> float:
    """The limit that masks keep to until they rest: the widths, which pay for what is above the true one, make up for half."""
    whole = float(decisions.price(metric, decisions.whole(branches)))
    return max(limit, math.sqrt(limit * whole))


class _Step(torch.autograd.Function):
    """`(importance, model, parameters) -> 0`; the end of the backward pass takes gradients of masks from the parameters."""

    @staticmethod
    def forward(ctx: Any, importance: Importance, model: DecidingModel, *parameters: Tensor) -> Tensor:
        ctx.importance, ctx.model, ctx.count = importance, model, len(parameters)
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        importance, model, scale = ctx.importance, ctx.model, gradients[0].detach()
        # Behind what others do at the end, DistributedDataParallel above all: there gradients are the mean of all processes.
        _at_the_end(lambda: _at_the_end(lambda: _take(importance, model, scale)))
        return (None,) * (2 + ctx.count)


def _at_the_end(callback: Callable[[], None]) -> None:
    torch.autograd.Variable._execution_engine.queue_callback(callback)  # type: ignore[attr-defined]


@uncompiled
@torch.no_grad()
def _take(importance: Importance, model: DecidingModel, scale: Tensor) -> None:
    """Take the gradients of the masks out of `.grad`, so that no optimizer moves what is set here."""
    found = {}
    for name, parameter in model.named_arch_parameters():
        if name in MASKS and parameter.grad is not None:
            # The loss may have been scaled, for half precision or for gradients that are accumulated.
            exact = exact_dtype(parameter.device)
            found[name] = parameter.grad.to(exact) / scale.to(exact)
            parameter.grad = None
    waits = not found and any(name in MASKS for name, p in model.named_arch_parameters() if p.numel())
    if not waits and importance.observe(_of_items(model._prepared.decisions.masks, found)):
        importance.set_masks(model)


def _of_items(masks: Masks, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the gradients of alpha, beta and gamma to those of units and items."""
    ladders = masks.ladders
    return {name: ladders[name].item_gradient(g) if name in ladders else g for name, g in gradients.items()}


def ranked(
    decisions: Decisions, parameters: ArchParameters, branches: Tensor, importance: Importance, limits: Limits
) -> dict[str, Tensor]:
    """Parameters of the masks that keep the most important units within `limits`.

    Args:
        parameters: as they are.
        branches: probabilities of all branches.
    """
    masks, ladders = decisions.masks, decisions.masks.ladders
    scores = {}
    for name, cost in _unit_costs(decisions, parameters, branches, limits).items():
        if name in ladders:
            group, on = ladders[name].ladder, ladders[name].score(parameters[name]) > THRESHOLD
        else:
            group, on = masks.channels.unit_group, masks.channels.score(parameters[name]) > THRESHOLD
        score = _in_groups(
            getattr(importance, name).to(cost).sqrt(), cost.clamp(min=0), group.to(cost.device), on.to(cost)
        )
        scores[name] = ladders[name].falling(score) if name in ladders else score
    order = torch.unique(torch.cat(list(scores.values())), return_inverse=True)[1] + 1
    exact = exact_dtype(order.device)
    ranks = dict(zip(scores, order.to(exact).split([len(score) for score in scores.values()])))

    def parameters_of(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {name: ladders[name].parameter(score) if name in ladders else score for name, score in own.items()}
        return {"alpha": order.new_zeros(0, dtype=exact), **found}

    trial = parameters_of(ranks)

    def use(thresholds: Thresholds) -> float:
        at = decisions.at(trial, branches, Decided({}, thresholds))
        return max(float(decisions.price(metric, at)) / limit for metric, limit in limits)

    thresholds = fill(masks.scores(trial), use)
    assert thresholds.channels is not None
    channels = thresholds.channels[masks.channels.unit_group.to(order.device)]
    taps = channels.new_tensor(thresholds.taps)
    found = {}
    for name in ranks:
        if name in ladders:
            found[name] = _relative(ladders[name].score(trial[name]), taps)
        else:
            found[name] = _relative(masks.channels.score(trial[name]), channels)
    return {name: value.to(parameters[name]) for name, value in parameters_of(found).items() if name in found}


def _in_groups(seen: Tensor, cost: Tensor, group: Tensor, on: Tensor) -> Tensor:
    """Scores in relation to the mean of what is on in the group, and to what the group costs."""

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(int(group.max()) + 1).index_add(0, group, values * on)

    mean = total(seen) / total(torch.ones_like(seen)).clamp(min=1)
    cost = total(cost)
    free = _FREE * cost.mean().clamp(min=1e-30)
    scores = seen / mean.clamp(min=1e-30)[group] / (cost + free)[group] ** RANKING.power
    return torch.where((cost <= free)[group], _KEPT * scores, scores)


def _relative(scores: Tensor, thresholds: Tensor) -> Tensor:
    """Scores above 0 on a scale from 0 to 1 on which the threshold is 1/2; order stays."""
    thresholds = thresholds.clamp(min=0)
    on = (1 - thresholds / (2 * scores)).clamp(min=_CLEARLY)
    return torch.where(scores > thresholds, on, scores / (2 * thresholds))


def _unit_costs(
    decisions: Decisions, parameters: ArchParameters, branches: Tensor, limits: Limits
) -> dict[str, Tensor]:
    """What every unit costs where it stands, as a share of the limits that are broken; of all, if none is."""
    names = [name for name in MASKS if name in parameters and len(parameters[name])]
    with torch.enable_grad():
        leaves = {name: parameters[name].detach().clone().requires_grad_() for name in names}
        at = decisions.at({**parameters, **leaves}, branches.detach(), Decided({}, HALF))
        shares = [decisions.price(metric, at) / limit for metric, limit in limits]
        broken = [share for share in shares if float(share.detach()) > 1] or shares
        found = torch.autograd.grad(torch.stack(broken).sum(), list(leaves.values()), allow_unused=True)
    exact = exact_dtype(leaves[names[0]].device)
    gradients = {
        name: torch.zeros_like(leaf, dtype=exact) if gradient is None else gradient.to(exact)
        for (name, leaf), gradient in zip(leaves.items(), found)
    }
    return _of_items(decisions.masks, gradients)
