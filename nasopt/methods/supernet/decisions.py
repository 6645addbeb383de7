"""Which branches stay? The cheapest ones, those inside a budget, and which of several nested choices are reached at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

# A branch as likely as the decided one is exchanged first, whatever it saves.
_LEAST = 1e-6
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

    def __truediv__(self, limit: float) -> Price:
        return Price(self.cost / limit, self.aside / limit)

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
        use: the largest share of a limit that a network needs.
    """
    found, now = dict(decisions), use(decisions)
    while now.cost > 1:
        options = []
        for choice, branches in scores.items():
            for branch in range(len(branches)):
                saved = now.saved_by(use({**found, choice: branch}))
                if saved > 0:
                    lost = max(branches[found[choice]] - branches[branch], 0.0)
                    options.append((saved / (lost + _LEAST), choice, branch))
        if not options:
            break
        _, choice, branch = max(options)
        found[choice] = branch
        now = use(found)

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
    """The cheapest branch of every choice; `sizes`: path of every choice -> branches, inner ones first.

    One choice after the other, until nothing changes: what is saved may depend on the others, as that of a peak does.
    """
    decisions = dict.fromkeys(sizes, 0)
    for _ in sizes:
        before = dict(decisions)
        for name, size in sizes.items():
            around = {**decisions, **_way_to(name)}
            prices = [cost({**around, name: branch}) for branch in range(size)]
            decisions[name] = prices.index(min(prices))
        if decisions == before:
            break
    return decisions


def is_reached(choice: str, decisions: Mapping[str, int]) -> bool:
    """Whether a choice lies in no branch, or in branches that stay."""
    return all(decisions.get(outer, branch) == branch for outer, branch in _way_to(choice).items())


def _way_to(choice: str) -> dict[str, int]:
    """The branches around a nested choice."""
    parts = choice.split(".branches.")
    starts = [".branches.".join(parts[:i]) for i in range(1, len(parts))]
    return {start: int(part.split(".")[0]) for start, part in zip(starts, parts[1:])}
