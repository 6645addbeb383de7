"""Prices of a search model: the regularizer, expected and exact costs, the search space, and the limits of a budget."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import torch
from torch import Tensor

from nasopt.arguments import check_flag, check_number
from nasopt.cost import AnyMetric, Target, get_metric
from nasopt.errors import ConfigError
from nasopt.search.deciding import DecidingModel
from nasopt.search.importance import Importance
from nasopt.search.parameters import MASKS
from nasopt.search.report import SearchSpace, searchable_share


class PricedModel(DecidingModel):
    """The base of `SearchModel` that tells what a network costs.

    Attributes:
        importance: of a `Budget` with `steps`, else None.
    """

    importance: Importance | None

    def get_regularization_loss(self) -> Tensor:
        """The configured cost, a scalar, differentiable in the architecture parameters.

        With a `Budget`: the penalty for being outside its limits, whose multipliers move on in the backward pass. With its
        `steps`: 0, but the backward pass takes the masks' gradients and sets the masks, so it belongs to the loss all the same.

        Raises:
            ArchitectureError: an architecture parameter is NaN or infinite.
        """
        if self.importance is not None:
            total = self.importance.loss(self)
        elif self.budget is not None:
            unfitted = self._expected(fitted=False)
            total = self.budget([self._price(metric, unfitted) for metric, _ in self.budget.limits])
        else:
            expected, seed_costs = self._expected(), self._prepared.seed_costs
            terms = []
            for metric, weight in self.regularizer.weights:
                scale, cost = weight / seed_costs[metric.name], self._price(metric, expected)
                terms.append(cost if scale == 1 else scale * cost)
            total = sum(terms[1:], start=terms[0]).to(torch.get_default_dtype())
        # Masks of NaN are NaN, so one look at the sum tells whether the parameters are worth one.
        if not torch.compiler.is_compiling():
            if not math.isfinite(float(total.detach())):
                self.check_architecture()
            self._effects.watch(total)
        return total

    @overload
    def get_cost(self, metric: str | AnyMetric | Target, discrete: Literal[False] = ...) -> Tensor: ...

    @overload
    def get_cost(self, metric: str | AnyMetric | Target, discrete: Literal[True]) -> int | float: ...

    def get_cost(self, metric: str | AnyMetric | Target, discrete: bool = False) -> Any:
        """Cost under a metric, by name or object.

        Returns:
            A float64 scalar tensor, differentiable; with `discrete=True` the exact int of what `arch_export` would give
            now (a float where the metric is not made of integers).

        Raises:
            ConfigError: an unknown metric.
            UnpricedError: the metric counts work, and nobody knows that of some call.
            ArchitectureError: an architecture parameter is NaN or infinite.
        """
        self.check_architecture()
        check_flag("get_cost: discrete", discrete)
        metric = get_metric(metric)
        self._check_priced(metric)
        if not discrete:
            return self._price(metric, self._expected())
        with torch.no_grad():
            return _plain(self._price(metric, self._found()))

    def get_size(self) -> Tensor:
        """Stored weights now [weights], a scalar, differentiable."""
        return self.get_cost("size")

    def get_macs(self) -> Tensor:
        """Multiply-accumulates for one sample now [MAC], a scalar, differentiable."""
        return self.get_cost("macs")

    def get_icv_loss(self, eps: float = 1e-3) -> Tensor:
        """Sum over the choices of `mean(theta) / (var(theta) + eps)`: small where one branch dominates. A scalar.

        theta are the probabilities without noise; at equal ones the gradient is zero, so this sharpens a preference and does
        not create one. Add it with a weight of its own: `task + strength * cost + icv_strength * model.get_icv_loss()`.

        Args:
            eps: > 0; bounds the loss at equal probabilities, `1 / (branches * eps)` per choice.

        Raises:
            ConfigError: `eps` is not above 0, or the model has no choices.
        """
        if self.choices is None:
            raise ConfigError(f"get_icv_loss: {type(self).__name__} decides between no branches: leave it out")
        check_number("get_icv_loss: eps", eps, above=0)
        self.check_architecture()
        return self._prepared.decisions.choices.polarisation(self.choice_logits, self.temperatures, eps)

    def search_space(self) -> SearchSpace:
        """Before a search: the smallest and the seed's cost per metric, and how much is searchable.

        Returns:
            `{"cost": {metric: {"smallest", "now", "seed"}}, "channels", "searchable_channels", "weights",
            "searchable_weights", "unpriced"}`; `searchable_weights` are those in layers that can lose something. `print` shows
            it with units.
        """
        self.check_architecture()
        metrics = [metric for metric, _ in self.regularizer.weights]
        metrics += [get_metric(name) for name in ("size", "macs") if get_metric(name) not in metrics]
        cost = {}
        with torch.no_grad():
            for metric in metrics:
                points = {"smallest": self._smallest(metric), "now": self._found()}
                known = {name: _plain(self._price(metric, point)) for name, point in points.items()}
                cost[metric.name] = {**known, "seed": _plain(self._seed_cost(metric))}
        return SearchSpace({"cost": cost, **searchable_share(self.analysis, self._prepared.decisions.masks.axes)})

    def settle_budget(self) -> None:
        """From now on, let decisions keep to the limits of the `Budget`; a search does so once it has been inside them.

        Raises:
            ConfigError: the regularizer is no budget.
        """
        if self.budget is None:
            raise ConfigError("settle_budget: this model has no budget: pass regularizer=nasopt.Budget(...)")
        if self.importance is not None and not self.importance.is_over:
            self.importance.set_masks(self, finish=True)
        self.budget.reached.fill_(True)

    def _make_importance(self) -> Importance:
        sizes = {name: p.numel() for name, p in self.named_arch_parameters() if name in MASKS}
        assert self.regularizer.steps is not None
        start = [self._seed_cost(metric) for metric, _ in self.regularizer.limits]
        return Importance(sizes, self.regularizer.steps, start)


def _plain(cost: Tensor | float) -> int | float:
    number = float(cost)
    return int(number) if number.is_integer() else number
