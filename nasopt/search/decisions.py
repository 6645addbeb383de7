"""Points of the search space: from architecture parameters to the expected, found, seed and smallest architecture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from nasopt.cost import AnyMetric, PeakMetric, RatioMetric
from nasopt.graph.branches.regions import Decisions as BranchDecisions
from nasopt.graph.cost_terms import Site, widths_of
from nasopt.graph.kernels import KernelCut
from nasopt.search.choices import Choices
from nasopt.search.constants import Constants
from nasopt.search.masks import HALF, Masks
from nasopt.search.price import Architecture, NetworkCost
from nasopt.search.settle import Cost, Decided, cheapest_branches, settle, settle_branches, widen
from nasopt.search.settle_channels import narrow_channels, widen_channels
from nasopt.uncompiled import uncompiled

# Of the smooth peak that breaks ties between networks of equal peaks: a step of half the peak's height counts e^-10.
_SHARPNESS = 20.0

# "alpha", "beta", "gamma", "choice_logits" -> parameter; of nothing to decide it is empty, and beta and gamma may be absent.
ArchParameters = Mapping[str, Tensor]


@dataclass
class Decisions:
    """What masks and choices of one model decide, and what that costs.

    Attributes:
        masks, choices, price: of the model.
        is_masked: whether masks are searched.
    """

    masks: Masks
    choices: Choices
    price: NetworkCost
    is_masked: bool
    _shares: _Shares = field(init=False)
    _settled: tuple[list[Tensor], Decided] | None = None
    _cheapest: dict[AnyMetric, dict[str, tuple[int, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make what follows from the model."""
        self._shares = _Shares(self.masks, self.price)

    # --- what is decided

    def likeliest(self, parameters: ArchParameters) -> Decided:
        """The largest logits, and masks as they are."""
        return Decided(self.choices.decisions(parameters["choice_logits"]) if self.choices.names else {}, HALF)

    @uncompiled
    def settled(self, parameters: ArchParameters, limits: Sequence[tuple[AnyMetric, float]]) -> Decided:
        """What is inside the limits; the last answer is remembered, it is a function of the parameters alone."""
        key = [parameter.detach().clone() for parameter in parameters.values()]
        if self._settled is None or not all(torch.equal(one, other) for one, other in zip(key, self._settled[0])):
            with torch.no_grad():
                self._settled = (key, self._settle(parameters, limits))
        return self._settled[1]

    def _settle(self, parameters: ArchParameters, limits: Sequence[tuple[AnyMetric, float]]) -> Decided:
        scores = self.choices.scores(parameters["choice_logits"])
        channels = self.choices.channels.sites(scores)
        scores = {path: own for path, own in scores.items() if path not in channels}
        sites = [path for path in self.choices.sites if path not in channels]
        decided = self.likeliest(parameters)
        use, _ = self._uses(parameters, limits)
        if channels:
            # Masks, where there are some, make up for half of what is too much.
            start = max(use(decided), 1.0)
            most = math.sqrt(start) if self.is_masked else 1.0
            decided = replace(
                decided,
                branches=narrow_channels(decided.branches, channels, lambda b: use(Decided(b, HALF)), most),
            )
        decided = self._settle_rest(parameters, limits, decided, scores, sites)
        if channels:
            at = decided.thresholds
            branches = narrow_channels(decided.branches, channels, lambda b: use(Decided(b, at)))
            decided = Decided(widen_channels(branches, channels, lambda b: use(Decided(b, at))), at)
        return decided

    def _settle_rest(
        self,
        parameters: ArchParameters,
        limits: Sequence[tuple[AnyMetric, float]],
        decided: Decided,
        scores: Mapping[str, Sequence[float]],
        sites: Sequence[str],
    ) -> Decided:
        """All but widths per channel, which are decided."""
        # A ratio does not fall as channels go: widths keep to it once all else is settled.
        sums = [(metric, limit) for metric, limit in limits if not isinstance(metric, RatioMetric)]
        if sums:
            masks = self.masks.scores(parameters) if self.is_masked else []
            use, cost = self._uses(parameters, sums)
            decided = settle(decided.branches, scores, masks, use, cost, sites if len(sums) == len(limits) else ())
        if len(sums) < len(limits):
            use, cost = self._uses(parameters, limits)
            at = decided.thresholds
            branches = settle_branches(decided.branches, scores, lambda found: cost(Decided(found, at)))
            decided = Decided(widen(branches, scores, sites, lambda found: use(Decided(found, at))), at)
        return decided

    def _uses(
        self, parameters: ArchParameters, limits: Sequence[tuple[AnyMetric, float]]
    ) -> tuple[Callable[[Decided], float], Callable[[Decided], Cost]]:
        """The largest share of the limits that a network needs; and the same as a `Cost`."""

        def use(decided: Decided) -> float:
            at = self.of(parameters, decided)
            return max(float(self.price(metric, at)) / limit for metric, limit in limits)

        def cost(decided: Decided) -> Cost:
            at = self.of(parameters, decided)
            costs = [(self._cost(metric, at), limit) for metric, limit in limits]
            return Cost(max(c.value / limit for c, limit in costs), sum(c.tie_break / limit for c, limit in costs))

        return use, cost

    def kept(self, parameters: ArchParameters, decided: Decided) -> tuple[Tensor, dict[str, KernelCut]]:
        """What export keeps: one bool per label, and taps by layer."""
        slots = self.masks.slots(parameters, self._one_hot(parameters, decided.branches), decided.thresholds)
        return self.masks.kept_labels(slots), self.masks.kernel_cuts(parameters, decided.thresholds)

    def keeps_everything(self, parameters: ArchParameters, decided: Decided) -> bool:
        """Whether no channel and no tap goes."""
        slots = self.masks.slots(parameters, self._one_hot(parameters, decided.branches), decided.thresholds)
        taps = self.masks.taps(parameters, decided.thresholds)
        return bool(slots.all()) and (taps is None or bool(taps.all()))

    # --- architectures

    def of(self, parameters: ArchParameters, decided: Decided) -> Architecture:
        """The decided architecture."""
        return self.at(parameters, self._one_hot(parameters, decided.branches), decided)

    def at(self, parameters: ArchParameters, branches: Tensor, decided: Decided) -> Architecture:
        """That of given probabilities of branches, `(branches,)`, differentiable, and of decided masks."""
        slots = self.masks.slots(parameters, branches, decided.thresholds)
        counts = self.masks.counts(slots, parameters, decided.thresholds)
        cuts = partial(self.masks.kernel_cuts, parameters, decided.thresholds)
        return Architecture(self._shares.add(counts, slots, branches), branches, cuts)

    def seed(self, parameters: ArchParameters) -> Architecture:
        """Everything, with the first branches of every choice."""
        return self.whole(self._one_hot(parameters, self.choices.first))

    def whole(self, branches: Tensor) -> Architecture:
        """Everything, of given probabilities of branches, `(branches,)`."""
        return Architecture(self._shares.add(self.masks.seed_counts(branches.device), None, branches), branches)

    def smallest(
        self, parameters: ArchParameters, metric: AnyMetric, left: Mapping[str, Sequence[int]] | None = None
    ) -> Architecture:
        """The cheapest one, as far as it is found; where only those branches are `left`."""

        # Of widths per channel the narrowest.
        narrow = {path: marker.branches_of([0] * marker.keep) for path, marker in self.choices.channels.markers.items()}

        def at(branches: BranchDecisions) -> Architecture:
            one_hot = self._one_hot(parameters, {**branches, **narrow})
            if isinstance(metric, RatioMetric):  # which is not smallest with the fewest channels
                return Architecture(self._shares.add(self.masks.seed_counts(one_hot.device), None, one_hot), one_hot)
            slots = self.masks.smallest_slots(one_hot.device, one_hot)
            counts = self.masks.smallest_counts(slots)
            return Architecture(self._shares.add(counts, slots, one_hot), one_hot)

        def cheapest(options: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
            options = {path: of for path, of in options.items() if path not in narrow}
            keep = self.choices.keep
            return cheapest_branches(options, keep, lambda b: self._cost(metric, at(b))) if options else {}

        if left is not None:
            return at(cheapest(left))
        if metric not in self._cheapest:
            self._cheapest[metric] = cheapest(self.choices.options)
        return at(self._cheapest[metric])

    def _cost(self, metric: AnyMetric, at: Architecture) -> Cost:
        """For comparisons: beside a peak that others hold a branch makes no difference, so a smooth peak breaks ties."""
        if not isinstance(metric, PeakMetric):
            return Cost(float(self.price(metric, at)))
        return Cost(float(self.price(metric, at)), float(self.price(replace(metric, sharpness=_SHARPNESS), at)))

    def _one_hot(self, parameters: ArchParameters, branches: BranchDecisions) -> Tensor:
        return self.choices.one_hot(branches, parameters["choice_logits"].detach())


class _Shares:
    """Counts of channels by width, differentiable in masks and probabilities.

    Of every channel and width one product is added to a count: the probability that the channel has this width (of decided
    channels 1), times the mask of the channel.
    """

    def __init__(self, masks: Masks, price: NetworkCost) -> None:
        # Behind the branches comes a constant 1.
        decided = sum(count for _, count in price.choices.values())
        branches, slots, places, self._count = [], [], [], 0
        for term in price.shares:
            bits, labels, widths = term.weight_bits, term.out_channels, torch.tensor(widths_of(term.weight_bits))
            if isinstance(bits, Site):
                start, total = price.choices[bits.choice]
                own = torch.arange(start, start + total).reshape(-1, len(widths))
                at = torch.arange(len(widths)).expand_as(own)
            else:
                own = torch.full((len(bits), 1), decided)  # type: ignore[arg-type]
                at = torch.searchsorted(widths, torch.tensor(bits))[:, None]
            mask = masks.slots_of(term.node, labels) if isinstance(labels, Tensor) else torch.zeros(len(own)).long()
            branches.append(own.reshape(-1))
            slots.append(mask[:, None].expand_as(own).reshape(-1))
            places.append(self._count + at.reshape(-1))
            self._count += len(widths)
        nothing = [torch.zeros(0, dtype=torch.int64)]
        self._index = Constants(*(torch.cat(found or nothing) for found in (branches, slots, places)))

    def add(self, counts: Tensor, slots: Tensor | None, branches: Tensor) -> Tensor:
        """Append them to other counts.

        Args:
            counts: `(counts,)`.
            slots: masks of channels, `(slots,)`, the first of which is always 1; None: every channel stays.
            branches: probabilities, `(branches,)`.
        """
        if not self._count:
            return counts
        of_branch, of_mask, place = self._index.on(counts.device)
        found = torch.nn.functional.pad(branches.to(counts.dtype), (0, 1), value=1.0)[of_branch]
        if slots is not None:
            found = found * slots[of_mask].to(counts.dtype)
        return torch.cat([counts, counts.new_zeros(self._count).index_add(0, place, found)])
