"""The state of a search: what a search model decides under its current parameters, its forward pass, what decisions cost."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nasopt.cost import AnyMetric, Metric, sums_of
from nasopt.distributed.steps import JointSteps
from nasopt.errors import ConfigError
from nasopt.graph.branches.run import Paths
from nasopt.graph.cost_terms import widths_of
from nasopt.graph.groups import Analysis, Traced
from nasopt.search.choice_settings import ChoiceSettings
from nasopt.search.choices import Draw
from nasopt.search.effect import Effects
from nasopt.search.layer_choice import check_temperature
from nasopt.search.masks import HALF, MaskSettings
from nasopt.search.options import Unpriced
from nasopt.search.parameters import ParameterHalves
from nasopt.search.prepare import Prepared, prepare
from nasopt.search.price import Architecture
from nasopt.search.regularizer import BudgetPenalty, Regularizer
from nasopt.search.seed import Origin
from nasopt.search.settle import Decided
from nasopt.search.shrunk import Shrunk
from nasopt.uncompiled import uncompiled


class DecidingModel(ParameterHalves):
    """The base of `SearchModel` that its forward pass, its prices and its exports stand on: decisions and their costs.

    Attributes:
        net: the traced copy of the seed, plain torch layers under the seed's names.
        masks, choices: settings; None: nothing of that kind is searched.
        regularizer, budget: what the search pays for; `budget` is None without limits.
        strict, unpriced: see `SearchOptions`.
        origin: of a model that a method has made of the user's seed, else None.
        shrunk: what has left the model, None before anything has.
    """

    alpha: nn.Parameter
    choice_logits: nn.Parameter
    net: Traced
    masks: MaskSettings | None
    choices: ChoiceSettings | None
    regularizer: Regularizer
    budget: BudgetPenalty | None
    _effects: Effects
    strict: bool
    unpriced: Unpriced
    origin: Origin | None
    shrunk: Shrunk | None
    _prepared: Prepared
    _draw: Draw | None

    @property
    def analysis(self) -> Analysis:
        """The channels of the seed."""
        return self._prepared.analysis

    def _prepare(self) -> None:
        self._prepared = prepare(self.net, self.example, self.masks, self.choices, self.strict, type(self).__name__)

    @uncompiled
    def _joint_steps(self, ddp: Any) -> JointSteps:
        outdated = self._prepared.outdated_ddp
        if outdated is not None and outdated() is ddp:
            raise ConfigError(
                "this DistributedDataParallel was built before the model was shrunk, so it would reduce gradients of other "
                "shapes: build it anew after every shrink()"
            )
        steps = self._prepared.joint_steps
        if steps is None or not steps.belong_to(ddp):
            steps = self._prepared.joint_steps = JointSteps(self, ddp)
        steps.check_trainable()
        return steps

    # --- what is decided

    def choice_summary(self) -> dict[str, dict[str, Any]]:
        """Per choice: `branches` (their layers), `probabilities`, `entropy` [nat], `chosen` (an index, or several) and `runs`.

        `runs` is False where the choice lies in a branch that is not chosen itself. Empty without choices.
        """
        choices = self._prepared.decisions.choices
        if not choices.names:
            return {}
        with torch.no_grad():
            return choices.summary(self.choice_logits, self.temperatures, self._decide().branches)

    def set_width_temperature(self, value: float) -> None:
        """Set the temperature of choices between widths; branches keep theirs.

        Raises:
            ConfigError: it is no finite number > 0.
        """
        check_temperature(value)
        choices = self._prepared.decisions.choices
        for position, name in enumerate(choices.names):
            if name in choices.sites:
                self.temperatures[position] = value

    def _branch_probabilities(self, fitted: bool = True) -> tuple[Tensor, Decided]:
        """Probabilities of all branches, `(branches,)`, differentiable, and what is decided beside them."""
        decisions, parameters = self._prepared.decisions, self._architecture_parameters()
        choices, logits = decisions.choices, parameters["choice_logits"]
        if not choices.names:  # nothing to weigh, in every step of a search of masks alone
            return logits, self._decide() if fitted else decisions.likeliest(parameters)
        if self._explores:
            return choices.expected(logits, self.temperatures, self._draw), Decided({}, HALF)
        decided = self._decide() if fitted else decisions.likeliest(parameters)
        return choices.decided(logits, decided.branches), decided

    def _decide(self) -> Decided:
        """What export would take now: the likeliest; with a budget that has once been met, what is inside it."""
        parameters = self._architecture_parameters()
        if self.budget is None or not bool(self.budget.reached):
            return self._prepared.decisions.likeliest(parameters)
        return self._prepared.decisions.settled(parameters, self.budget.limits)

    # --- the forward pass

    def _run(self, inputs: tuple[Any, ...], every_branch: bool = False) -> Any:
        """The output of the traced network under the current decisions; in train mode, until it is decided, of a drawn step.

        With `every_branch` it is the mean of all branches.
        """
        prepared, parameters = self._prepared, self._architecture_parameters()
        masks, choices = prepared.decisions.masks, prepared.decisions.choices
        if not choices.names:
            thresholds = self._decide().thresholds
            vectors = masks.vectors(masks.slots(parameters, thresholds=thresholds), parameters, thresholds)
            if _do_nothing(vectors):
                return self.net.forward(*inputs)
            return prepared.forward(self.net, vectors, *inputs)
        if every_branch:
            slots = masks.any_branch(masks.slots(parameters))
            means = Paths(self.net, choices.means(parameters["choice_logits"].detach()))
            return prepared.forward(self.net, masks.vectors(slots, parameters), means, *inputs)
        paths = self._paths()
        if self._explores and choices.settings.paths != "sampled":
            slots = masks.any_branch(masks.slots(parameters))
            vectors = masks.vectors(slots, parameters)
            return prepared.forward(self.net, vectors, self._fold_masks(paths, slots), *inputs)
        # One branch runs: what reads the choice sees its mask. Its weight gets its gradient from the output alone.
        branches, decided = self._branch_probabilities()
        slots = masks.slots(parameters, branches.detach(), decided.thresholds)
        return prepared.forward(self.net, masks.vectors(slots, parameters, decided.thresholds), paths, *inputs)

    def _paths(self) -> Paths:
        """Draw a training step, or decide."""
        self.check_architecture()
        choices = self._prepared.decisions.choices
        if not self._explores:
            kept = choices.kept(self._decide().branches, self.choice_logits.device)
            return Paths(self.net, kept)
        logits = self._architecture_parameters()["choice_logits"]
        self._draw = choices.draw(logits, self.temperatures)
        weights = choices.weights(logits, self.temperatures, self._draw)
        return Paths(self.net, choices.active(weights, self._draw))

    def _fold_masks(self, paths: Paths, slots: Tensor) -> Paths:
        """The branches' own masks, multiplied to their weights: `theta_i m_i` per channel, no further activation."""
        active = list(paths.active)
        for choice, of_branch in self._prepared.decisions.masks.branch_masks(slots):
            position = self._prepared.decisions.choices.names.index(choice)
            active[position] = [
                one._replace(weight=_weighted(of_branch[one.branch], one.weight)) for one in active[position]
            ]
        return Paths(paths.net, active)

    # --- what it costs

    def _check_priced(self, metric: AnyMetric) -> None:
        for one in sums_of(metric):
            if one.runs is not None:
                for term in self.analysis.costs:
                    if term.bias_bits is not None:
                        one.runs.check(term.layer, widths_of(term.weight_bits), widths_of(term.activation_bits))
        if self.unpriced == "raise" and isinstance(metric, Metric) and metric.per_call:
            self.analysis.check_priced(metric.name)

    def _price(self, metric: AnyMetric, at: Architecture) -> Tensor:
        return self._prepared.decisions.price(metric, at)

    def _expected(self, fitted: bool = True) -> Architecture:
        """What the last forward pass used in train mode, what is decided otherwise: `fitted` into a budget, if there is one."""
        return self._prepared.decisions.at(self._architecture_parameters(), *self._branch_probabilities(fitted))

    def _found(self) -> Architecture:
        return self._prepared.decisions.of(self._architecture_parameters(), self._decide())

    def _smallest(self, metric: AnyMetric) -> Architecture:
        return self._prepared.decisions.smallest(self._architecture_parameters(), metric)

    def _seed_cost(self, metric: AnyMetric) -> float:
        if self.shrunk is not None and metric.name in self.shrunk.seed_costs:
            return self.shrunk.seed_costs[metric.name]
        if self.origin is not None:
            return float(self.origin.calls.total(metric))
        with torch.no_grad():
            return float(self._price(metric, self._prepared.decisions.seed(self._architecture_parameters())))

    def _relate(self) -> None:
        """Price the seed: relative costs are divided by that, and tables are made before the first (compiled) step."""
        for metric, _ in self.regularizer.weights:
            self._check_priced(metric)
            cost = self._seed_cost(metric)
            if self.regularizer.relative and not cost > 0:
                raise ConfigError(f"relative=True divides by the seed's {metric.name}, which is {cost}")
            self._prepared.seed_costs[metric.name] = cost if self.regularizer.relative else 1.0

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if self.origin is not None and self.origin.rename is not None:
            first = {path: start for path, (start, _) in self._prepared.decisions.price.choices.items()}
            self.origin.rename(state_dict, prefix, first, self.temperatures)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _do_nothing(vectors: tuple[Tensor, ...]) -> bool:
    """Whether masks neither learn nor hide anything, as in a warm-up, or when what is off has left."""
    if torch.compiler.is_compiling() or any(vector.requires_grad for vector in vectors):
        return False
    return not vectors or bool((torch.cat(vectors) == 1).all())


def _weighted(mask: Tensor, weight: Tensor | None) -> Tensor:
    return mask if weight is None else weight * mask.to(weight.dtype)
