"""Which branches stay? The cheapest ones, those inside a budget, and which of several nested choices are reached at all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

# A branch as likely as the decided one is exchanged first, whatever it saves.
_LEAST = 1e-6
# All of so many networks are priced.
_FEW = 256
# What a saving beside the peak is worth.
_ASIDE = 1e-6


@dataclass(frozen=True, order=True)
class Price:
    """What a network costs.

    Attributes:
        cost: the cost.
        aside: orders networks of equal cost; 0 where a cost is a sum, to which everything contributes.
    """

    cost: float
    aside: float = 0.0

    def saved_by(self, other: Price) -> float:
        """How much less the other one is."""
        return self.cost - other.cost + _ASIDE * (self.aside - other.aside)


@dataclass(frozen=True)
class Decided:
    """What export would take.

    Attributes:
        branches: path of every choice -> branch.
        level: what the scores of masks must exceed; None: as the masks themselves say.
    """

    branches: Mapping[str, int]
    level: float | None = None


def settle_branches(
    decisions: Mapping[str, int], scores: Mapping[str, Sequence[float]], use: Callable[[Mapping[str, int]], Price]
) -> dict[str, int]:
    """Decisions with `use(decisions).cost <= 1`, or the cheapest ones if there are none.

    One exchange after the other: the one that saves most use per lost score; where no single one saves anything, the
    cheapest branches. Then exchanges that turn out to be unnecessary are taken back, the ones that lost most first.

    Args:
        decisions: path of every choice -> branch, of the highest scores.
        scores: of all branches of every choice, e.g. their log-probabilities.
        use: the largest share of a limit that a network needs; as a `Price`, so that equal ones have an order, too.
    """
    found, now = dict(decisions), use(decisions)
    # What an exchange saved when it was last priced: the best ones are priced anew, until one of them stays the best.
    worth = {(choice, branch): math.inf for choice, branches in scores.items() for branch in range(len(branches))}
    while now.cost > 1:
        best, most = None, 0.0
        for choice, branch in sorted(worth, key=lambda option: -worth[option]):
            if worth[choice, branch] <= most:
                break
            lost = max(scores[choice][found[choice]] - scores[choice][branch], 0.0)
            worth[choice, branch] = now.saved_by(use({**found, choice: branch})) / (lost + _LEAST)
            if worth[choice, branch] > most:
                best, most = (choice, branch), worth[choice, branch]
        if best is None:
            break
        choice, branch = best
        found[choice] = branch
        now = use(found)
        worth.update(((choice, branch), math.inf) for branch in range(len(scores[choice])))
    if now.cost > 1:
        found = cheapest_branches({choice: len(branches) for choice, branches in scores.items()}, use)
        now = use(found)
    back = sorted(scores, key=lambda choice: scores[choice][found[choice]] - scores[choice][decisions[choice]])
    for choice in back:
        again = {**found, choice: decisions[choice]}
        if now.cost <= 1 and again != found and use(again).cost <= 1:
            found = again
    return found


def cheapest_branches(sizes: Mapping[str, int], cost: Callable[[Mapping[str, int]], Price]) -> dict[str, int]:
    """The cheapest branch of every choice, as far as it is found; for a sum it is, and where there are few networks.

    Many networks are not all priced: from the same branch everywhere on, one choice after the other is decided until nothing
    changes. What is saved may depend on the others, as that of a peak does.

    Args:
        sizes: path of every choice -> branches, inner ones first.
        cost: of a network.
    """
    if not cost(dict.fromkeys(sizes, 0)).aside:  # a sum: all ways lead to the same network
        return _descend(dict.fromkeys(sizes, 0), sizes, cost)
    if math.prod(sizes.values()) <= _FEW:
        every = (dict(zip(sizes, falls)) for falls in itertools.product(*map(range, sizes.values())))
        return min(every, key=cost)
    alike = ({choice: min(branch, size - 1) for choice, size in sizes.items()} for branch in range(max(sizes.values())))
    return min((_descend(start, sizes, cost) for start in alike), key=cost)


def _descend(
    start: Mapping[str, int], sizes: Mapping[str, int], cost: Callable[[Mapping[str, int]], Price]
) -> dict[str, int]:
    decisions = dict(start)
    for _ in sizes:
        before = dict(decisions)
        for name, size in sizes.items():
            around = {**decisions, **_way_to(name, sizes)}
            prices = [cost({**around, name: branch}) for branch in range(size)]
            decisions[name] = prices.index(min(prices))
        if decisions == before:
            break
    return decisions


def _way_to(choice: str, choices: Iterable[str]) -> dict[str, int]:
    """The branches around a nested choice."""
    starts = {outer: f"{outer}.branches." for outer in choices}
    return {o: int(choice.removeprefix(s).split(".")[0]) for o, s in starts.items() if choice.startswith(s)}
