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

from nasopt.arguments import short
from nasopt.checked import checked
from nasopt.cost import Metric, RatioMetric
from nasopt.errors import ConfigError, nearest
from nasopt.graph.branches.markers import SITE
from nasopt.nn.quantised import QuantisedWeight
from nasopt.search.passes import eval_mode
from nasopt.search.regularizer import Budget

if TYPE_CHECKING:
    from nasopt.search.model import SearchModel

Sensitivity = Literal["loss", "fisher", "cosine"]
_SENSITIVITIES = ("loss", "fisher", "cosine")
# Entries of the table of the assignment, per item and in all; with more bits to give away they are given away in larger pieces.
_MOST_STATES, _MOST_ENTRIES = 1 << 20, 1 << 26


@checked
def allocate_bits(
    model: SearchModel,
    batches: Iterable[tuple[Any, Any]],
    budget: Budget,
    loss: Callable[[Any, Any], Tensor] = torch.nn.functional.cross_entropy,
    sensitivity: Sensitivity = "loss",
) -> dict[str, int | tuple[int, ...]]:
    """Widths of the weights of every layer, by sensitivities and exact assignment, without training.

    ```python
    model = MixedPrecision(seed, (3, 32, 32), precision=Precision(weights=(2, 3, 4, 8)))
    model.calibrate(loader)
    widths = nasopt.allocate_bits(model, batches, Budget(average_bits=3))
    model = MixedPrecision(seed, (3, 32, 32), precision=Precision(weights=widths, first_last=None))
    ```

    With `granularity="channel"` output channels are assigned one by one, and `model.choose_widths(widths)` decides for them.

    Args:
        model: a search model with widths to choose and calibrated activations; it stays as it is.
        batches: pairs of inputs and targets; for `"cosine"` none are needed.
        budget: one limit on `size_bits`, `flash` or `average_bits`.
        loss: `(outputs, targets) -> scalar`.
        sensitivity: `"loss"`: how much the loss grows when one layer (or channel: one pass over the batches for each of its
            widths) has this width and all others their widest; `"fisher"`: the squared gradients of the loss times the squared
            changes of the weights; `"cosine"`: `1 - cos^2` between the weights and their rounded values, without data.

    Returns:
        Path of every quantised layer -> bits, as `Precision(weights=...)` takes them; of layers with widths per channel those of
        all output channels. Tensor classes keep their widest width.

    Raises:
        ConfigError: no widths to choose, no batches, another metric, or a limit below the narrowest widths.
    """
    if not isinstance(getattr(model, "net", None), torch.nn.Module):
        raise ConfigError(f"allocate_bits takes a search model with precision=, got {short(model)}")
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
    metric, limit = _limit(model, budget)
    stored = list(batches) if sensitivity != "cosine" else []
    if sensitivity != "cosine" and not stored:
        raise ConfigError(
            f'allocate_bits: sensitivity={sensitivity!r} needs batches of inputs and targets; "cosine" does not'
        )
    if any(not isinstance(batch, (tuple, list)) or len(batch) != 2 for batch in stored):
        raise ConfigError("allocate_bits: a batch is a pair of inputs and targets")
    logits = model.choice_logits.detach()
    kept = logits.clone()
    try:
        with eval_mode(model):
            losses, costs = _tables(model, layers, metric, sensitivity, lambda: _mean_loss(model, stored, loss))
            _choose(model)
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
    found: dict[str, Any] = {n: one.bits for n, one in model.net.named_modules() if isinstance(one, QuantisedWeight)}
    left = iter(chosen)
    for name, layer in layers.items():
        bits = tuple(layer.widths[next(left)] for _ in range(_channels(layer) or 1))
        found[name] = bits if _channels(layer) else bits[0]
    return found


def _channels(layer: QuantisedWeight) -> int | None:
    """How many channels of a layer choose a width each; None: they choose together."""
    site: Any = layer._modules[SITE]
    return site.channels  # type: ignore[no-any-return]


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


def _choose(model: SearchModel, item: tuple[str, int] | None = None, width: int = 0) -> None:
    """Let everything run at its widest, but for one item: a channel of a layer, or its channel 0 for all."""
    logits = model.choice_logits.detach()
    logits.zero_()
    for path, (first, count) in model._prepared.decisions.price.choices.items():
        if path.endswith(f".{SITE}"):
            site: Any = model.net.get_submodule(path)
            rows = logits[first : first + count].view(-1, len(site.widths))
            rows[:, -1] = 1.0
            if item is not None and item[0] == path.removesuffix(f".{SITE}"):
                rows[item[1]] = 0.0
                rows[item[1], width] = 1.0


def _tables(
    model: SearchModel,
    layers: Mapping[str, QuantisedWeight],
    metric: Metric,
    sensitivity: Sensitivity,
    mean_loss: Callable[[], Tensor],
) -> tuple[list[list[float]], list[list[float]]]:
    """Per layer, or channel where these choose, and width: the sensitivity, and the cost beside that of the widest width."""
    _choose(model)
    base = float(model.get_cost(metric, discrete=True))
    gradients: dict[str, Tensor] = {}
    if sensitivity == "fisher":
        mean_loss().backward()
        gradients = {name: layer.weight.grad.detach().clone() for name, layer in layers.items()}
    losses, costs = [], []
    with torch.no_grad():
        for name, layer in layers.items():
            items, widths = range(_channels(layer) or 1), range(len(layer.widths))
            own_costs = []
            for width in widths:
                _choose(model, (name, 0), width)
                own_costs.append(float(model.get_cost(metric, discrete=True)) - base)
            if sensitivity == "loss":
                table = []
                for item in items:
                    for width in widths:
                        _choose(model, (name, item), width)
                        table.append(mean_loss())
                found = torch.stack(table).reshape(len(items), -1)
            else:
                found = torch.stack([_changes(layer, width, gradients.get(name)) for width in widths], 1)
            for own_losses in found.tolist():
                # What narrows and helps on these batches does so by chance.
                losses.append(list(itertools.accumulate(reversed(own_losses), max))[::-1])
                costs.append(own_costs)
    return losses, costs


def _changes(layer: QuantisedWeight, width: int, gradient: Tensor | None) -> Tensor:
    """How much a width changes the weight of every channel that chooses, or of the layer, `(items,)`."""

    def rows(x: Tensor) -> Tensor:
        return layer._rows(x) if _channels(layer) else x.reshape(1, -1)

    rounded = layer.quantised_weight([(width, None)])
    if gradient is not None:
        return rows(gradient * (rounded - layer.weight)).square().sum(1)
    return 1 - torch.nn.functional.cosine_similarity(rows(layer.weight), rows(rounded)).square()


def _mean_loss(model: SearchModel, batches: Sequence[tuple[Any, Any]], loss: Callable[[Any, Any], Tensor]) -> Tensor:
    return torch.stack([loss(model(inputs), targets) for inputs, targets in batches]).mean()


def assign(losses: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], limit: float) -> list[int] | None:
    """One option per item with the smallest sum of losses among those whose costs sum to `limit` at most; None if none do.

    Exact where the costs are multiples of one number and there are not too many of these below the limit; else costs are
    rounded up to pieces of a millionth (more for more than 64 items), so the sum never exceeds the limit.

    Args:
        losses, costs: of every option of every item.
        limit: of the sum of costs.
    """
    cheapest = [min(own) for own in costs]
    room = limit - sum(cheapest)
    if room < 0:
        return None
    extra = [[cost - least for cost in own] for own, least in zip(costs, cheapest)]
    most = min(_MOST_STATES, _MOST_ENTRIES // len(costs))
    unit = _common_unit([cost for own in extra for cost in own if cost > 0], room, most)
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
        taken.append((len(options) - 1 - stacked.argmin(0)).astype(np.int8))
        best = stacked.min(0)
    left, chosen = states, []
    for choice, own_pieces in zip(reversed(taken), reversed(pieces)):
        chosen.append(int(choice[left]))
        left -= own_pieces[chosen[-1]]
    return chosen[::-1]


def _common_unit(costs: Sequence[float], room: float, most: int) -> float:
    """The largest number of which all costs, in eighths, are multiples; the room holds it `most` times at most."""
    eighths = [round(8 * cost) for cost in costs]
    exact = math.gcd(*eighths) / 8 if eighths else 1.0
    return max(exact, room / most, 1 / 8)
