"""What is common to searches that choose between branches: logits, draws, temperature, polarisation, summary."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.errors import ConfigError
from nasopt.graph.alternatives import choices_of
from nasopt.graph.analysis import Analysis
from nasopt.graph.nest import Paths
from nasopt.methods.base import SearchModel
from nasopt.methods.network_cost import KernelAxis, NetworkCost
from nasopt.methods.schedule import Schedule
from nasopt.methods.supernet.choices import Choices, Draw, PathMode
from nasopt.methods.supernet.module import check_temperature


class BranchSearch(SearchModel):
    """A search model whose `choice_logits` weigh the branches of every `SuperNetModule`.

    Attributes:
        choice_logits: one entry per branch, initially 0, choice after choice (inner ones first).
        temperatures: one per choice, shape `(choices, 1)`; a buffer, so a checkpoint holds it.
        temperature_schedule: given as `temperature=`, or None; followed by `set_epoch`.
    """

    _searches_branches = True
    _settles = False
    choice_logits: nn.Parameter
    temperatures: Tensor
    temperature_schedule: Schedule | None
    _branch_settings: tuple[bool | None, bool | None, PathMode]
    _draw: Draw | None

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
        self.__dict__.update(_branch_settings=settings, temperature_schedule=schedule, _draw=None)
        super().__init__(model, input_shape, **common)
        if first is not None:
            self.temperature = first  # type: ignore[assignment]

    @property
    @abstractmethod
    def _choices(self) -> Choices:
        """The choices, derived from the analysis."""

    @abstractmethod
    def _cost_of(self, metric: Any, branches: Tensor, **which: bool) -> Tensor:
        """Cost for given probabilities of all branches, `(branches,)`; `which` as `_cost`."""

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

    def _make_cost(self, analysis: Analysis, kernel_axes: Sequence[KernelAxis] = ()) -> NetworkCost:
        """The price of the analysed model, for all metrics of the regularizer."""
        cost = NetworkCost(analysis, kernel_axes)
        for metric, _ in self.regularizer.weights:
            cost.check(metric)
        return cost

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
        if self.temperature_schedule is not None:
            self.temperature = self.temperature_schedule(epoch)  # type: ignore[assignment]

    # --- weights of the branches

    def _branch_probabilities(self) -> Tensor:
        """What the last forward pass used in train mode, the decision otherwise; `(branches,)`, differentiable."""
        choices = self._choices
        if self._explores:
            return choices.flat(choices.weights(self.choice_logits, self.temperatures, self._draw))
        return choices.flat(choices.decided(self.choice_logits))

    def _paths(self) -> Paths:
        """Draw a training step, or decide."""
        self.check_architecture()
        choices = self._choices
        if not self._explores:
            return Paths(self.net, [[(branch, None)] for branch in choices.decisions(self.choice_logits).values()])
        self._draw = choices.draw(self.choice_logits, self.temperatures)
        weights = choices.weights(self.choice_logits, self.temperatures, self._draw)
        return Paths(self.net, choices.active(weights, self._draw))

    def _decisions(self) -> dict[str, int]:
        return self._choices.decisions(self.choice_logits)

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
        choices = self._choices
        theta = choices.probabilities(self.choice_logits, self.temperatures)
        count = torch.tensor(choices.sizes, dtype=theta.dtype, device=theta.device)
        mean = theta.sum(1) / count
        variance = (theta * theta).sum(1) / count - mean * mean
        return (mean / (variance + eps)).sum()

    # --- results

    def choice_summary(self) -> dict[str, dict[str, Any]]:
        """Per choice: `branches` (their layers), `probabilities`, `entropy` [nat], `chosen` (index) and `runs`.

        `runs` is False where the choice lies in a branch that is not chosen itself.
        """
        with torch.no_grad():
            theta = self._choices.probabilities(self.choice_logits, self.temperatures).double().cpu()
            entropy = torch.special.entr(theta).sum(1).tolist()
        decisions = self._decisions()
        return {
            name: {
                "branches": list(kinds),
                "probabilities": theta[row, : len(kinds)].tolist(),
                "entropy": entropy[row],
                "chosen": decisions[name],
                "runs": _is_reached(name, decisions),
            }
            for row, (name, kinds) in enumerate(zip(self._choices.names, self._choices.kinds))
        }

    def _smallest_decisions(self, cost: Callable[[Tensor], Tensor]) -> dict[str, int]:
        """The cheapest branch of every choice, inner ones first; `cost` takes weights of all branches, `(branches,)`."""
        choices = self._choices
        decisions = dict.fromkeys(choices.names, 0)
        for name, size in zip(choices.names, choices.sizes):
            around = {**decisions, **_way_to(name)}
            prices = [
                float(cost(choices.one_hot({**around, name: i}, self.choice_logits.detach()))) for i in range(size)
            ]
            decisions[name] = prices.index(min(prices))
        return decisions


def _way_to(name: str) -> dict[str, int]:
    """The branches around a nested choice."""
    parts = name.split(".branches.")
    starts = [".branches.".join(parts[:i]) for i in range(1, len(parts))]
    return {start: int(part.split(".")[0]) for start, part in zip(starts, parts[1:])}


def _is_reached(name: str, decisions: dict[str, int]) -> bool:
    return all(decisions.get(choice, index) == index for choice, index in _way_to(name).items())


def has_branches(model: SearchModel) -> bool:
    """Whether there is anything to choose."""
    return bool(choices_of(model.net))
