"""Decisions that keep to a budget: thresholds of the masks and branches of the choices, fitted into the limits.

Once a search has been inside its limits, every decision keeps it there. Branches are exchanged only where cutting all masks is
not enough. Then units and taps are kept in the order of their scores, as many as fit; what is left over is given to single
groups, again in the order of scores. So pressure that went a little too far costs nothing, and later steps only exchange units
that matter less for ones that matter more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nasopt.search.masks import HALF, Thresholds

# Avoids a division by zero for equally likely branches: such a branch is exchanged first, whatever it saves.
_EPS_SCORE = 1e-6
# Below this many networks all are priced.
_EXHAUSTIVE = 256
# How much a difference in the tie-break counts beside one in cost.
_TIE_BREAK = 1e-6
# A network that uses less than this share of its tightest limit gets more, group by group.
_FULL = 0.98


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
        branches: path of every choice -> branch.
        thresholds: what the scores of masks must exceed.
    """

    branches: Mapping[str, int]
    thresholds: Thresholds


def settle(
    likeliest: Mapping[str, int],
    branch_scores: Mapping[str, Sequence[float]],
    mask_scores: Sequence[Tensor],
    use: Callable[[Decided], float],
    branch_cost: Callable[[Decided], Cost],
) -> Decided:
    """Decisions with `use(decided) <= 1`, as far as there are some.

    Args:
        likeliest: path of every choice -> branch of the highest score.
        branch_scores: of all branches of every choice, e.g. their log-probabilities.
        mask_scores: of the units of every group, and last those of all taps; empty where there are no masks.
        use: the largest share of a limit that a network needs.
        branch_cost: the same as a `Cost`, by which branches are compared.
    """
    branches = dict(likeliest)
    levers = [torch.unique(scores).flip(0) for scores in mask_scores]
    nothing = _thresholds(levers, [0] * len(levers))
    if branches and use(Decided(branches, nothing)) > 1:
        branches = settle_branches(branches, branch_scores, lambda found: branch_cost(Decided(found, nothing)))

    def share(kept: Sequence[int]) -> float:
        return use(Decided(branches, _thresholds(levers, kept)))

    return Decided(branches, _thresholds(levers, _fill(levers, share)) if levers else HALF)


def _fill(levers: Sequence[Tensor], share: Callable[[Sequence[int]], float]) -> list[int]:
    """How many different scores of every lever, highest first, are kept."""
    every = torch.unique(torch.cat(list(levers))).flip(0)

    def above(k: int) -> list[int]:
        return [int((lever > _threshold(every, k)).sum()) for lever in levers]

    kept = above(_largest(lambda k: share(above(k)) <= 1, len(every)))
    by_score = sorted(range(len(levers)), key=lambda i: -_threshold(levers[i], kept[i]))
    for i in by_score:
        if share(kept) >= _FULL:
            break

        def fits(k: int, i: int = i) -> bool:
            return share([*kept[:i], kept[i] + k, *kept[i + 1 :]]) <= 1

        kept[i] += _largest(fits, len(levers[i]) - kept[i])
    return kept


def _thresholds(levers: Sequence[Tensor], kept: Sequence[int]) -> Thresholds:
    if not levers:
        return HALF
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


def settle_branches(
    decisions: Mapping[str, int], scores: Mapping[str, Sequence[float]], use: Callable[[Mapping[str, int]], Cost]
) -> dict[str, int]:
    """Decisions with `use(decisions).value <= 1`, or the cheapest ones if there are none.

    One exchange after the other: the one that saves most use per lost score; where no single one saves anything, the
    cheapest branches. Then exchanges that turn out to be unnecessary are taken back, the ones that lost most first.

    Args:
        decisions: path of every choice -> branch, of the highest scores.
        scores: of all branches of every choice, e.g. their log-probabilities.
        use: the largest share of a limit that a network needs.
    """
    found, now = dict(decisions), use(decisions)
    # What an exchange saved when it was last priced: the best ones are priced again, until one of them stays the best.
    worth = {(choice, branch): math.inf for choice, branches in scores.items() for branch in range(len(branches))}
    while now.value > 1:
        best, most = None, 0.0
        for choice, branch in sorted(worth, key=lambda option: -worth[option]):
            if worth[choice, branch] <= most:
                break
            lost = max(scores[choice][found[choice]] - scores[choice][branch], 0.0)
            worth[choice, branch] = now.saved_by(use({**found, choice: branch})) / (lost + _EPS_SCORE)
            if worth[choice, branch] > most:
                best, most = (choice, branch), worth[choice, branch]
        if best is None:
            break
        choice, branch = best
        found[choice] = branch
        now = use(found)
        worth.update(((choice, branch), math.inf) for branch in range(len(scores[choice])))
    if now.value > 1:
        found = cheapest_branches({choice: len(branches) for choice, branches in scores.items()}, use)
        now = use(found)
    back = sorted(scores, key=lambda choice: scores[choice][found[choice]] - scores[choice][decisions[choice]])
    for choice in back:
        again = {**found, choice: decisions[choice]}
        if now.value <= 1 and again != found and use(again).value <= 1:
            found = again
    return found


def cheapest_branches(sizes: Mapping[str, int], cost: Callable[[Mapping[str, int]], Cost]) -> dict[str, int]:
    """The cheapest branch of every choice, as far as it is found; for a sum it is, and where there are few networks.

    Many networks are not all priced: from the same branch everywhere on, one choice after the other is decided until nothing
    changes. What is saved may depend on the others, as that of a peak does.

    Args:
        sizes: path of every choice -> branches, inner ones first.
        cost: of a network.
    """
    if not cost(dict.fromkeys(sizes, 0)).tie_break:  # a sum: all ways lead to the same network
        return _descend(dict.fromkeys(sizes, 0), sizes, cost)
    if math.prod(sizes.values()) <= _EXHAUSTIVE:
        every = (dict(zip(sizes, branches)) for branches in itertools.product(*map(range, sizes.values())))
        return min(every, key=cost)
    alike = ({choice: min(branch, size - 1) for choice, size in sizes.items()} for branch in range(max(sizes.values())))
    return min((_descend(start, sizes, cost) for start in alike), key=cost)


def _descend(
    start: Mapping[str, int], sizes: Mapping[str, int], cost: Callable[[Mapping[str, int]], Cost]
) -> dict[str, int]:
    decisions = dict(start)
    for _ in sizes:
        before = dict(decisions)
        for name, size in sizes.items():
            around = {**decisions, **_around(name, sizes)}
            costs = [cost({**around, name: branch}) for branch in range(size)]
            decisions[name] = costs.index(min(costs))
        if decisions == before:
            break
    return decisions


def _around(choice: str, choices: Iterable[str]) -> dict[str, int]:
    """The branches around a nested choice."""
    starts = {outer: f"{outer}.branches." for outer in choices}
    return {o: int(choice.removeprefix(s).split(".")[0]) for o, s in starts.items() if choice.startswith(s)}
