"""Decisions that keep to a budget: thresholds of the masks and branches of the choices, fitted into the limits.

Once a search has been inside its limits, every decision keeps it there. Branches are exchanged only where cutting all masks is
not enough. Then units and taps are kept in the order of their scores, as many as fit; what is left over is given to single
groups, again in the order of scores. So pressure that went a little too far costs nothing, and later steps only exchange units
that matter less for ones that matter more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nasopt.graph.branches.regions import Decisions
from nasopt.search.masks import HALF, Thresholds

# Avoids a division by zero for equally likely branches: such a branch is exchanged first, whatever it saves.
_EPS_SCORE = 1e-6
# Below this many networks all are priced; at most so many in one sweep over all choices from several beginnings.
_EXHAUSTIVE, _MOST_PRICED = 256, 4096
# How much a difference in the tie-break counts beside one in cost.
_TIE_BREAK = 1e-6
# A network that uses less than this share of its tightest limit gets more, group by group.
_FULL = 0.98
# A network that uses less than this share gives units for a wider width.
_COARSE = 0.95


@dataclass(frozen=True, order=True)
class Cost:
    """What a network costs.

    Attributes:
        value: the cost.
        tie_break: orders networks of equal cost; 0 where a cost is a sum, to which everything contributes.
    """

    value: float
    tie_break: float = 0.0

    def saved_by(self, other: Cost) -> float:
        """How much less the other one is."""
        return self.value - other.value + _TIE_BREAK * (self.tie_break - other.tie_break)


@dataclass(frozen=True)
class Decided:
    """What export would take.

    Attributes:
        branches: what every choice keeps.
        thresholds: what the scores of masks must exceed.
    """

    branches: Decisions
    thresholds: Thresholds


def settle(
    likeliest: Decisions,
    branch_scores: Mapping[str, Sequence[float]],
    mask_scores: Sequence[Tensor],
    use: Callable[[Decided], float],
    branch_cost: Callable[[Decided], Cost],
    widths: Sequence[str] = (),
) -> Decided:
    """Decisions with `use(decided) <= 1`, as far as there are some.

    Args:
        likeliest: path of every choice -> branches of the highest scores.
        branch_scores: of all branches of every choice, e.g. their log-probabilities; -inf of one that is never kept.
        mask_scores: of the units of every group, and last those of all taps; empty where there are no masks.
        use: the largest share of a limit that a network needs.
        branch_cost: the same as a `Cost`, by which branches are compared.
        widths: choices whose branches are widths in ascending order: what is left over is given to these.
    """
    branches: Decisions = dict(likeliest)
    # Where every score is a threshold, the best of a group alone is left.
    nothing = Thresholds(mask_scores[-1].new_full((len(mask_scores) - 1,), math.inf), math.inf) if mask_scores else HALF
    if branches and use(Decided(branches, nothing)) > 1:
        branches = settle_branches(branches, branch_scores, lambda found: branch_cost(Decided(found, nothing)))

    branches = _share_with_widths(branches, branch_scores, mask_scores, widths, branch_cost)
    thresholds = fill(mask_scores, lambda found: use(Decided(branches, found)))
    if widths:
        branches = widen(branches, branch_scores, widths, lambda found: use(Decided(found, thresholds)))
    return _trade(Decided(branches, thresholds), branch_scores, mask_scores, widths, use)


def _share_with_widths(
    branches: Decisions,
    branch_scores: Mapping[str, Sequence[float]],
    mask_scores: Sequence[Tensor],
    widths: Sequence[str],
    branch_cost: Callable[[Decided], Cost],
) -> Decisions:
    """Narrower widths where the likeliest network is too large, so that not masks alone make up for it: half of it each."""
    start = branch_cost(Decided(branches, HALF)).value
    if not mask_scores or not widths or start <= 1:
        return branches
    most = math.sqrt(start)

    def cost(found: Decisions) -> Cost:
        one = branch_cost(Decided(found, HALF))
        return Cost(one.value / most, one.tie_break / most)

    return settle_branches(branches, {one: branch_scores[one] for one in widths}, cost)


def _trade(
    decided: Decided,
    branch_scores: Mapping[str, Sequence[float]],
    mask_scores: Sequence[Tensor],
    widths: Sequence[str],
    use: Callable[[Decided], float],
) -> Decided:
    """One more step to a wider width for some units, where that uses limits better: steps of whole widths are coarse."""
    now = use(decided)
    steps = _wider(decided.branches, branch_scores, widths)
    if not mask_scores or not steps or not _COARSE > now > 0:
        return decided
    _, one = min(steps)
    wider = {**decided.branches, one: (decided.branches[one][0] + 1,)}
    other = Decided(wider, fill(mask_scores, lambda found: use(Decided(wider, found))))
    return other if now < use(other) <= 1 else decided


def _wider(found: Decisions, scores: Mapping[str, Sequence[float]], widths: Sequence[str]) -> list[tuple[float, str]]:
    """What score a step to the next width loses, and whose step it is."""
    return [
        (scores[one][i] - scores[one][i + 1], one) for one in widths for i in found[one] if i + 1 < len(scores[one])
    ]


def widen(
    branches: Decisions, scores: Mapping[str, Sequence[float]], widths: Sequence[str], use: Callable[[Decisions], float]
) -> dict[str, tuple[int, ...]]:
    """Wider widths where limits leave room, one step after the other: first where a step costs least score."""
    found, blocked = dict(branches), set[str]()
    now = use(found)
    while now < _FULL:
        steps = [(lost, one) for lost, one in _wider(found, scores, widths) if one not in blocked]
        if not steps:
            break
        _, one = min(steps)
        wider = {**found, one: (found[one][0] + 1,)}
        if (needed := use(wider)) <= 1:
            found, now = wider, needed
        else:
            blocked.add(one)
    return found


def fill(mask_scores: Sequence[Tensor], use: Callable[[Thresholds], float]) -> Thresholds:
    """Thresholds with `use(thresholds) <= 1`, as far as there are some, and as near to 1 as there are.

    Args:
        mask_scores: of the units of every group, and last those of all taps; empty where there are no masks.
        use: the largest share of a limit that a network needs.
    """
    if not mask_scores:
        return HALF
    levers = [torch.unique(scores).flip(0) for scores in mask_scores]
    every = torch.unique(torch.cat(levers)).flip(0)

    def share(kept: Sequence[int]) -> float:
        return use(_thresholds(levers, kept))

    def above(k: int) -> list[int]:
        return [int((lever > _threshold(every, k)).sum()) for lever in levers]

    kept = above(_largest(lambda k: share(above(k)) <= 1, len(every)))
    if share(kept) > 1:  # runtimes that pad and crop for a cut kernel need less for a whole one
        taps = [len(levers[-1])]
        kept = min(kept, above(_largest(lambda k: share(above(k)[:-1] + taps) <= 1, len(every)))[:-1] + taps, key=share)
    by_score = sorted(range(len(levers)), key=lambda i: -_threshold(levers[i], kept[i]))
    for i in by_score:
        if share(kept) >= _FULL:
            break

        def fits(k: int, i: int = i) -> bool:
            return share([*kept[:i], kept[i] + k, *kept[i + 1 :]]) <= 1

        kept[i] += _largest(fits, len(levers[i]) - kept[i])
    return _thresholds(levers, kept)


def _thresholds(levers: Sequence[Tensor], kept: Sequence[int]) -> Thresholds:
    found = [_threshold(lever, k) for lever, k in zip(levers, kept)]
    return Thresholds(levers[-1].new_tensor(found[:-1]), found[-1])


def _threshold(lever: Tensor, kept: int) -> float:
    """The threshold above which `kept` different scores lie."""
    return float(lever[kept]) if kept < len(lever) else -math.inf


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, by bisection; 0 is taken to fit."""
    if most > 0 and fits(most):
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


# --- branches

# (path of the choice, a branch that it keeps, one that takes its place).
_Exchange = tuple[str, int, int]


def settle_branches(
    decisions: Decisions, scores: Mapping[str, Sequence[float]], use: Callable[[Decisions], Cost]
) -> dict[str, tuple[int, ...]]:
    """Decisions with `use(decisions).value <= 1`, or the cheapest ones if there are none.

    One exchange after the other: the one that saves most use per lost score; where no single one saves anything, the
    cheapest branches. Then exchanges that turn out to be unnecessary are taken back, the ones that lost most first.

    Args:
        decisions: what every choice keeps, of the highest scores.
        scores: of all branches of every choice, e.g. their log-probabilities; -inf of one that is never kept.
        use: the largest share of a limit that a network needs.
    """
    options = {choice: [i for i, score in enumerate(own) if score > -math.inf] for choice, own in scores.items()}
    found, now = dict(decisions), use(decisions)
    # What an exchange saved when it was last priced: the best ones are priced again, until one of them stays the best.
    worth = {choice: _exchanges(choice, found, options) for choice in scores}
    while now.value > 1:
        best: _Exchange | None = None
        most = 0.0
        last = {exchange: value for own in worth.values() for exchange, value in own.items()}
        for exchange in sorted(last, key=lambda one: -last[one]):
            if last[exchange] <= most:
                break
            choice, out, new = exchange
            lost = max(scores[choice][out] - scores[choice][new], 0.0)
            value = now.saved_by(use(_exchanged(found, exchange))) / (lost + _EPS_SCORE)
            worth[choice][exchange] = value
            if value > most:
                best, most = exchange, value
        if best is None:
            break
        found = _exchanged(found, best)
        now = use(found)
        worth[best[0]] = _exchanges(best[0], found, options)
    if now.value > 1:
        keep = {choice: len(found[choice]) for choice in scores}
        rest = dict(found)
        found |= cheapest_branches(options, keep, lambda own: use({**rest, **own}))
        now = use(found)

    def lost_by(choice: str) -> float:
        return sum(scores[choice][i] for i in found[choice]) - sum(scores[choice][i] for i in decisions[choice])

    for choice in sorted(scores, key=lost_by):
        again = {**found, choice: decisions[choice]}
        if now.value <= 1 and again != found and use(again).value <= 1:
            found = again
    return found


def _exchanges(choice: str, found: Decisions, options: Mapping[str, Sequence[int]]) -> dict[_Exchange, float]:
    kept = found[choice]
    return {(choice, out, new): math.inf for out in kept for new in options[choice] if new not in kept}


def _exchanged(found: Decisions, exchange: _Exchange) -> dict[str, tuple[int, ...]]:
    choice, out, new = exchange
    return {**found, choice: tuple(sorted({*found[choice], new} - {out}))}


def cheapest_branches(
    options: Mapping[str, Sequence[int]], keep: Mapping[str, int], cost: Callable[[Decisions], Cost]
) -> dict[str, tuple[int, ...]]:
    """The cheapest branches of every choice, as far as they are found; for a sum they are, and where there are few networks.

    Many networks are not all priced: from the same branches everywhere on, one choice after the other is decided until nothing
    changes. What is saved may depend on the others, as that of a peak does.

    Args:
        options: path of every choice -> branches that it may keep, inner ones first.
        keep: how many of them it keeps.
        cost: of a network.
    """

    def start(first: int) -> dict[str, tuple[int, ...]]:
        begin = {choice: min(first, len(own) - keep[choice]) for choice, own in options.items()}
        return {choice: tuple(own[begin[choice] :][: keep[choice]]) for choice, own in options.items()}

    if not cost(start(0)).tie_break:  # a sum: all ways lead to the same network
        return _descend(start(0), options, cost)
    if math.prod(math.comb(len(own), keep[choice]) for choice, own in options.items()) <= _EXHAUSTIVE:
        every = itertools.product(*(itertools.combinations(own, keep[choice]) for choice, own in options.items()))
        return min((dict(zip(options, branches)) for branches in every), key=cost)
    most = max(1, _MOST_PRICED // sum(map(len, options.values())))
    starts = min(max(map(len, options.values())), most)
    return min((_descend(start(first), options, cost) for first in range(starts)), key=cost)


def _descend(
    start: Decisions, options: Mapping[str, Sequence[int]], cost: Callable[[Decisions], Cost]
) -> dict[str, tuple[int, ...]]:
    decisions = dict(start)
    for _ in options:
        before = dict(decisions)
        for name, own in options.items():
            around = {**decisions, **dict(_around(name, options))}
            costs = {branch: cost({**around, name: (branch,)}) for branch in own}
            decisions[name] = tuple(sorted(sorted(own, key=costs.__getitem__)[: len(start[name])]))
        if decisions == before:
            break
    return decisions


def _around(choice: str, choices: Iterable[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The branches around a nested choice."""
    for outer in choices:
        start = f"{outer}.branches."
        if choice.startswith(start):
            yield outer, (int(choice.removeprefix(start).split(".")[0]),)
