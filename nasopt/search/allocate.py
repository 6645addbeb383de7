"""Allocation of bits without a search: the sensitivity of every layer to every width, and an exact assignment under a limit.

The baseline that a search over widths has to reach. Sensitivities add up as if layers did not know of each other, and the
assignment with the smallest sum inside the limit is found by dynamic programming over the bits that are given away.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from nasopt.cost import Metric, RatioMetric
from nasopt.errors import ConfigError, nearest
from nasopt.graph.branches.markers import SITE, WidthSite
from nasopt.nn.quantised import QuantisedWeight
from nasopt.search.regularizer import Budget
from nasopt.search.verify import eval_mode

if TYPE_CHECKING:
    from nasopt.search.model import SearchModel

Sensitivity = Literal["loss", "fisher", "cosine"]
_SENSITIVITIES = ("loss", "fisher", "cosine")
# Entries of the table of the assignment; with more bits to give away they are given away in larger pieces.
_MOST_STATES = 1 << 20


def allocate_bits(
    model: SearchModel,
    batches: Iterable[tuple[Any, Any]],
    budget: Budget,
    loss: Callable[[Any, Any], Tensor] = torch.nn.functional.cross_entropy,
    sensitivity: Sensitivity = "loss",
) -> dict[str, int]:
    """Widths of the weights of every layer, by sensitivities and exact assignment, without training.

    ```python
    model = MixedPrecision(seed, (3, 32, 32), precision=Precision(weights=(2, 3, 4, 8)))
    model.calibrate(loader)
    widths = nasopt.allocate_bits(model, batches, Budget(average_bits=3))
    model = MixedPrecision(seed, (3, 32, 32), precision=Precision(weights=widths, first_last=None))
    ```

    Args:
        model: a search model with widths to choose and calibrated activations; it stays as it is.
        batches: pairs of inputs and targets; for `"cosine"` none are needed.
        budget: one limit on `size_bits`, `flash` or `average_bits`.
        loss: `(outputs, targets) -> scalar`.
        sensitivity: `"loss"`: how much the loss grows when one layer has this width and all others their widest; `"fisher"`: the
            squared gradients of the loss times the squared changes of the weights; `"cosine"`: `1 - cos^2` between the weights
            and their rounded values, without data.

    Returns:
        Path of every quantised layer -> bits, as `Precision(weights=...)` takes them. Tensor classes keep their widest width.

    Raises:
        ConfigError: no widths to choose, no batches, another metric, or a limit below the narrowest widths.
    """
    if sensitivity not in _SENSITIVITIES:
        hint = nearest(sensitivity, _SENSITIVITIES) if isinstance(sensitivity, str) else ""
        raise ConfigError(f"sensitivity: unknown {sensitivity!r}: known are {', '.join(_SENSITIVITIES)}.{hint}")
    layers = {
        name: layer
        for name, layer in model.net.named_modules()
        if isinstance(layer, QuantisedWeight) and SITE in layer._modules
    }
    if not layers:
        raise ConfigError(
            "allocate_bits: the model has no widths of weights to choose: give Precision(weights=(2, 4, 8))"
        )
    if not model.is_quantised:
        raise ConfigError("allocate_bits: the model computes in floats for now: call model.quantise() and calibrate it")
    if any(isinstance(m, WidthSite) and m.channels for m in model.net.modules()):
        raise ConfigError('allocate_bits gives widths to layers: wrap the model with granularity="layer"')
    metric, limit = _limit(model, budget)
    stored = list(batches) if sensitivity != "cosine" else []
    if sensitivity != "cosine" and not stored:
        raise ConfigError(
            f'allocate_bits: sensitivity={sensitivity!r} needs batches of inputs and targets; "cosine" does not'
        )
    logits = model.choice_logits.detach()
    kept = logits.clone()
    try:
        with eval_mode(model):
            losses, costs = _tables(model, layers, metric, sensitivity, lambda: _mean_loss(model, stored, loss))
            _choose(model, {})
            base = float(model.get_cost(metric, discrete=True))
    finally:
        logits.copy_(kept)
        model.zero_grad()
    chosen = assign(losses, costs, limit - base)
    if chosen is None:
        least = base + sum(min(own) for own in costs)
        raise ConfigError(
            f"allocate_bits: the limit on {metric.name} is {limit:,g}, and the narrowest widths cost {least:,g}: raise it, or "
            "allow narrower ones"
        )
    fixed = {name: one.bits for name, one in model.net.named_modules() if isinstance(one, QuantisedWeight)}
    return {**fixed, **{name: layer.widths[i] for (name, layer), i in zip(layers.items(), chosen)}}


def _limit(model: SearchModel, budget: Budget) -> tuple[Metric, float]:
    limits = budget.limits if isinstance(budget, Budget) else ()
    names = [metric.name for metric, _ in limits]
    if len(limits) != 1 or names[0] not in ("size_bits", "flash", "average_bits"):
        raise ConfigError(
            "allocate_bits takes a Budget with one limit on size_bits, flash or average_bits, got "
            f"{', '.join(names) or repr(budget)}"
        )
    ((metric, limit),) = limits
    if isinstance(metric, RatioMetric):
        return metric.above, limit * float(model.get_cost(metric.below, discrete=True))
    assert isinstance(metric, Metric)
    return metric, limit


def _choose(model: SearchModel, widths: Mapping[str, int]) -> None:
    """Let these layers run at the width of that position, and everything else at the widest."""
    logits = model.choice_logits.detach()
    logits.zero_()
    for path, (first, count) in model._prepared.decisions.price.choices.items():
        if path.endswith(f".{SITE}"):
            logits[first + widths.get(path.removesuffix(f".{SITE}"), count - 1)] = 1.0


def _tables(
    model: SearchModel,
    layers: Mapping[str, QuantisedWeight],
    metric: Metric,
    sensitivity: Sensitivity,
    mean_loss: Callable[[], Tensor],
) -> tuple[list[list[float]], list[list[float]]]:
    """Per layer and width: the sensitivity, and the cost beside that of the widest width."""
    _choose(model, {})
    base = float(model.get_cost(metric, discrete=True))
    gradients: dict[str, Tensor] = {}
    if sensitivity == "fisher":
        mean_loss().backward()
        gradients = {name: layer.weight.grad.detach().clone() for name, layer in layers.items()}
    losses, costs = [], []
    with torch.no_grad():
        for name, layer in layers.items():
            own_losses, own_costs = [], []
            for width in range(len(layer.widths)):
                _choose(model, {name: width})
                own_costs.append(float(model.get_cost(metric, discrete=True)) - base)
                weight, rounded = layer.weight, layer.quantised_weight([(width, None)])
                if sensitivity == "loss":
                    own_losses.append(float(mean_loss()))
                elif sensitivity == "fisher":
                    own_losses.append(float((gradients[name] * (rounded - weight)).square().sum()))
                else:
                    cosine = torch.nn.functional.cosine_similarity(weight.flatten(), rounded.flatten(), dim=0)
                    own_losses.append(float(1 - cosine.square()))
            # What narrows and helps on these batches does so by chance.
            losses.append(list(itertools.accumulate(reversed(own_losses), max))[::-1])
            costs.append(own_costs)
    return losses, costs


def _mean_loss(model: SearchModel, batches: Sequence[tuple[Any, Any]], loss: Callable[[Any, Any], Tensor]) -> Tensor:
    return torch.stack([loss(model(inputs), targets) for inputs, targets in batches]).mean()


def assign(losses: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], limit: float) -> list[int] | None:
    """One option per item with the smallest sum of losses among those whose costs sum to `limit` at most; None if none do.

    Exact where the costs are multiples of one number and there are not too many of these below the limit; else costs are
    rounded up to pieces of a millionth, so the sum never exceeds the limit.

    Args:
        losses, costs: of every option of every item.
        limit: of the sum of costs.
    """
    cheapest = [min(own) for own in costs]
    room = limit - sum(cheapest)
    if room < 0:
        return None
    extra = [[cost - least for cost in own] for own, least in zip(costs, cheapest)]
    unit = _common_unit([cost for own in extra for cost in own if cost > 0], room)
    pieces = [[math.ceil(cost / unit - 1e-9) for cost in own] for own in extra]
    states = min(int(room / unit + 1e-9), sum(max(own) for own in pieces))
    best = np.zeros(states + 1)  # the smallest loss of the items so far with at most so many pieces
    taken = []
    for own_losses, own_pieces in zip(losses, pieces):
        options = []
        for loss, piece in zip(own_losses, own_pieces):
            option = np.full(states + 1, np.inf)
            if piece <= states:
                option[piece:] = best[: states + 1 - piece] + loss
            options.append(option)
        stacked = np.stack(options[::-1])  # of equal ones the last option
        taken.append(len(options) - 1 - stacked.argmin(0))
        best = stacked.min(0)
    left, chosen = states, []
    for choice, own_pieces in zip(reversed(taken), reversed(pieces)):
        chosen.append(int(choice[left]))
        left -= own_pieces[chosen[-1]]
    return chosen[::-1]


def _common_unit(costs: Sequence[float], room: float) -> float:
    """The largest number of which all costs, in eighths, are multiples; at least a millionth of the room."""
    eighths = [round(8 * cost) for cost in costs]
    exact = math.gcd(*eighths) / 8 if eighths else 1.0
    return max(exact, room / _MOST_STATES, 1 / 8)
