"""What is common to searches that choose between branches: logits, draws, temperature, polarisation, summary."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.cost import AnyMetric, PeakMetric
from nasopt.errors import ConfigError
from nasopt.graph.branches.markers import choices_of
from nasopt.graph.branches.run import Paths
from nasopt.graph.build import build
from nasopt.graph.groups import Analysis
from nasopt.graph.kernels import KernelCut
from nasopt.search.choices import Choices, Draw, PathMode
from nasopt.search.layer_choice import check_temperature
from nasopt.search.model import CostOf, SearchModel
from nasopt.search.report import describe, layer_summary
from nasopt.search.schedule import Schedule
from nasopt.search.settle import Decided, Price, cheapest_branches, settle_branches
from nasopt.search.structure import is_chosen, make_structure

# Of the smooth peak that orders networks of equal peaks: a step of half the peak's height counts e^-10.
_SHARPNESS = 20.0


class BranchSearch(SearchModel):
    """A search model whose `choice_logits` weigh the branches of every `SuperNetModule`.

    Attributes:
        choice_logits: one entry per branch, initially 0, choice after choice (inner ones first).
        temperatures: one per choice, shape `(choices, 1)`; a buffer, so a checkpoint holds it.
        temperature_schedule: given as `temperature=`, or None; followed by `set_epoch`.
    """

    _searches_branches = True
    choice_logits: nn.Parameter
    temperatures: Tensor
    temperature_schedule: Schedule | None
    _branch_settings: tuple[bool | None, bool | None, PathMode]
    _draw: Draw | None
    _epoch: float

    def __init__(
        self,
        model: nn.Module,
        input_shape: Sequence[Any] | None,
        *,
        gumbel_softmax: bool | None,
        hard_softmax: bool | None,
        temperature: float | Schedule | None,
        paths: PathMode,
        **common: Any,
    ) -> None:
        schedule = temperature if isinstance(temperature, Schedule) else None
        first = schedule(0) if schedule is not None else temperature
        settings = (gumbel_softmax, hard_softmax, paths)
        self.__dict__.update(_branch_settings=settings, temperature_schedule=schedule, _draw=None, _epoch=0.0)
        super().__init__(model, input_shape, **common)
        if first is not None:
            self.temperature = first  # type: ignore[assignment]

    @property
    def _choices(self) -> Choices:
        return self._derived["method"].choices

    def _draws_in_training(self) -> bool:
        gumbel, hard, paths = self._branch_settings
        settings = [choice.settings for choice in choices_of(self.net).values()]
        return paths != "all" or any(
            bool(own["gumbel_softmax"] if gumbel is None else gumbel)
            or bool(own["hard_softmax"] if hard is None else hard)
            for own in settings
        )

    @abstractmethod
    def _kept(self) -> tuple[Tensor, dict[str, KernelCut]]:
        """What export keeps of what masks may cut: one bool per label, and taps by layer."""

    @abstractmethod
    def _cost_of(
        self, metric: AnyMetric, branches: Tensor, of: CostOf = "expected", level: float | None = None
    ) -> Tensor:
        """Cost for given probabilities of all branches, `(branches,)`, and masks where a method has some.

        Masks: of the `"smallest"` network, of the `"seed"`, or else as `Decided.level` says.
        """

    def _levels(self) -> list[float]:
        """Rising values of `Decided.level` that cut more and more; none where there are no masks."""
        return []

    # --- decisions and costs

    def _cost(self, metric: AnyMetric, of: CostOf = "expected") -> Tensor:
        if of == "smallest":
            sizes = dict(zip(self._choices.names, self._choices.sizes))

            def price(decisions: Mapping[str, int]) -> Price:
                branches = self._one_hot(decisions)
                return Price(
                    float(self._cost_of(metric, branches, "smallest")), self._aside(metric, branches, "smallest")
                )

            return self._cost_of(metric, self._one_hot(cheapest_branches(sizes, price)), "smallest")
        if of == "seed":
            return self._cost_of(metric, self._one_hot(dict.fromkeys(self._choices.names, 0)), "seed")
        if of == "discrete":
            decided = self._outcome()
            return self._cost_of(metric, self._one_hot(decided.branches), level=decided.level)
        branches, level = self._branch_probabilities(of == "unfitted")
        return self._cost_of(metric, branches, level=level)

    def _aside(self, metric: AnyMetric, branches: Tensor, of: CostOf = "expected", level: float | None = None) -> float:
        """What orders networks of equal cost, see `Price`: beside a peak that others hold a branch makes no difference."""
        if not isinstance(metric, PeakMetric):
            return 0.0
        return float(self._cost_of(replace(metric, sharpness=_SHARPNESS), branches, of, level))

    def _one_hot(self, decisions: Mapping[str, int]) -> Tensor:
        return self._choices.one_hot(decisions, self.choice_logits.detach())

    def _likeliest(self) -> Decided:
        return Decided(self._choices.decisions(self.choice_logits))

    def _outcome(self) -> Decided:
        """What export would take now: the largest logits; with a budget that has once been met, what is inside it."""
        if self.budget is None or not bool(self.budget.reached):
            return self._likeliest()
        key = [parameter.detach().clone() for parameter in self.arch_parameters()]
        known = self._derived.get("decided")
        if known is None or not all(torch.equal(one, other) for one, other in zip(key, known[0])):
            with torch.no_grad():
                known = self._derived["decided"] = (key, self._settled(self.budget.limits))
        return known[1]

    def _settled(self, limits: Sequence[tuple[AnyMetric, float]]) -> Decided:
        """Decisions inside the limits: masks are cut as far as needed; where that is not enough, branches change, too."""

        def share(decided: Decided) -> float:
            branches = self._one_hot(decided.branches)
            return max(float(self._cost_of(metric, branches, level=decided.level)) / limit for metric, limit in limits)

        def cut(decided: Decided) -> Decided:
            levels = [decided.level, *self._levels()]
            place = bisect_left(levels, True, key=lambda level: share(replace(decided, level=level)) <= 1)
            return replace(decided, level=levels[min(place, len(levels) - 1)])

        def use(branches: Mapping[str, int]) -> Price:
            one_hot = self._one_hot(branches)
            asides = (self._aside(metric, one_hot, level=narrow.level) / limit for metric, limit in limits)
            return Price(share(Decided(branches, narrow.level)), sum(asides))

        found = self._likeliest()
        narrow = cut(found)
        if share(narrow) > 1:
            scores = self._choices.scores(self.choice_logits)
            narrow = cut(Decided(settle_branches(found.branches, scores, use)))
        return narrow

    def _make_choices(self, analysis: Analysis) -> Choices:
        """Choices of the analysed model; logits and temperatures are created if they do not exist."""
        choices = Choices(analysis, *self._branch_settings)
        if "choice_logits" not in self._parameters:
            like = next((p for p in self.net.parameters() if p.is_floating_point()), torch.empty(0))
            # Weights are multiplied to activations: as exact as these, and never in half precision.
            dtype = torch.promote_types(like.dtype, torch.float32)
            self.register_parameter("choice_logits", nn.Parameter(like.new_zeros(choices.total, dtype=dtype)))
            temperatures = torch.tensor(choices.temperatures, device=like.device, dtype=dtype)
            self.register_buffer("temperatures", temperatures.reshape(-1, 1))
        return choices

    # --- temperature

    @property
    def temperature(self) -> float:
        """Of the softmax; setting it sets that of every choice. The mean where they differ."""
        return float(self.temperatures.mean()) if self.temperatures.numel() else 1.0

    @temperature.setter
    def temperature(self, value: float) -> None:
        self.temperatures.fill_(check_temperature(value))

    def set_epoch(self, epoch: float) -> None:
        """Follow the schedules: call it at the start of every epoch of the search, which counts from 0."""
        self._epoch = epoch
        if self.temperature_schedule is not None:
            self.temperature = self.temperature_schedule(epoch)  # type: ignore[assignment]

    # --- weights of the branches

    def _branch_probabilities(self, unfitted: bool = False) -> tuple[Tensor, float | None]:
        """What the last forward pass used in train mode, what is decided otherwise.

        Returns:
            Probabilities of all branches, `(branches,)`, differentiable; and the level of the masks, as in `Decided`.
        """
        choices = self._choices
        if self._explores:
            return choices.flat(choices.weights(self.choice_logits, self.temperatures, self._draw)), None
        decided = self._likeliest() if unfitted else self._outcome()
        return choices.flat(choices.decided(self.choice_logits, decided.branches)), decided.level

    def _paths(self) -> Paths:
        """Draw a training step, or decide."""
        self.check_architecture()
        choices = self._choices
        if not self._explores:
            return Paths(self.net, [[(branch, None)] for branch in self._outcome().branches.values()])
        self._draw = choices.draw(self.choice_logits, self.temperatures)
        weights = choices.weights(self.choice_logits, self.temperatures, self._draw)
        return Paths(self.net, choices.active(weights, self._draw))

    def _call(self, masks: Sequence[Tensor], paths: Paths, inputs: tuple[Any, ...]) -> Any:
        """The network under masks, along paths where there are choices."""
        function = self._derived["method"].forward
        return function(self.net, masks, *((paths,) if self._choices.names else ()), *inputs)

    # --- polarisation

    def get_icv_loss(self, eps: float = 1e-3) -> Tensor:
        """Sum over the choices of `mean(theta) / (var(theta) + eps)`: small where one branch dominates. A scalar.

        theta are the probabilities without noise; at equal ones the gradient is zero, so this sharpens a preference and does
        not create one. Add it with a weight of its own: `task + strength * cost + icv_strength * model.get_icv_loss()`.

        Args:
            eps: > 0; bounds the loss at equal probabilities, `1 / (branches * eps)` per choice.
        """
        if not eps > 0:
            raise ConfigError(f"eps must be a number > 0, got {eps!r}: it keeps the loss finite at equal probabilities")
        self.check_architecture()
        return self._choices.polarisation(self.choice_logits, self.temperatures, eps)

    # --- results

    def _export(self) -> nn.Module:
        return build(self.net, self.example, self.arch_structure())

    def arch_summary(self) -> dict[str, Any]:
        """What has been decided.

        Returns:
            `{"method", "choices", "layers", "cost"}`. `choices` is `choice_summary()`; `layers` describes the layers of the
            network that would be exported now, under the names of the seed; `cost` has `now` and `seed` for every metric of
            the regularizer, size and macs.
        """
        self.check_architecture()
        decisions = self._outcome().branches
        with torch.no_grad():
            layers = layer_summary(self.analysis, *self._kept())
        if not self._searches_channels:
            layers = {name: {**layer, "reason": ""} for name, layer in layers.items()}
        cost = {name: {"now": c["now"], "seed": c["seed"]} for name, c in self.search_space()["cost"].items()}
        return {
            "method": type(self).__name__,
            "choices": self.choice_summary(),
            "layers": {name: layer for name, layer in layers.items() if is_chosen(name, decisions)},
            "cost": cost,
        }

    def arch_structure(self) -> dict[str, Any]:
        """The found structure as a versioned dict of plain values (JSON); see `nasopt.restore`."""
        self.check_architecture()
        with torch.no_grad():
            keep, cuts = self._kept()
        decisions = dict(self._outcome().branches)
        return make_structure(type(self).__name__, self.analysis, self.example, keep, cuts, decisions)

    def __repr__(self) -> str:
        return describe(self)

    def choice_summary(self) -> dict[str, dict[str, Any]]:
        """Per choice: `branches` (their layers), `probabilities`, `entropy` [nat], `chosen` (index) and `runs`.

        `runs` is False where the choice lies in a branch that is not chosen itself.
        """
        with torch.no_grad():
            return self._choices.summary(self.choice_logits, self.temperatures, self._outcome().branches)


def has_branches(model: SearchModel) -> bool:
    """Whether there is anything to choose."""
    return bool(choices_of(model.net))
