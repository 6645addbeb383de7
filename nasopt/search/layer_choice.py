"""SuperNetModule, the layer choice that a person writes into a seed: one of several branches, usable as it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from nasopt.errors import ConfigError
from nasopt.graph.branches.markers import Alternatives


class SuperNetModule(Alternatives):
    """A layer that a search decides: one of several branches, which map the same input to the same output shape.

    ```python
    self.conv = SuperNetModule([
        nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Identity(),
    ])
    ```

    Every branch should have a norm and an activation of its own: branches that share a norm behind them spoil its
    statistics for each other. Branches may hold further `SuperNetModule`s. Before it is wrapped, the module gives the
    mean of its branches in train mode and the first branch in eval mode.

    Args:
        branches: at least two modules.
        gumbel_softmax: perturb the probabilities with Gumbel noise in every training step.
        hard_softmax: weights are one-hot in the forward pass (straight-through in the backward pass).
        temperature: of the softmax, > 0; a low one makes weights nearly one-hot.
        shared: branches may share parameters with each other (a layer in two branches, a weight of which another branch uses a
            part). What is shared is stored once, if any branch that uses it runs.

    Raises:
        ConfigError: fewer than two branches, something else than modules, parameters shared between branches, branches
            of different dtypes, or a temperature that is not a finite number > 0.
    """

    def __init__(
        self,
        branches: Iterable[nn.Module],
        gumbel_softmax: bool = False,
        hard_softmax: bool = False,
        temperature: float = 1.0,
        shared: bool = False,
    ) -> None:
        super().__init__()
        given = list(branches)
        for index, branch in enumerate(given):
            if not isinstance(branch, nn.Module):
                raise ConfigError(
                    f"SuperNetModule: branch {index} is a {type(branch).__name__}, it must be an nn.Module"
                )
        if len(given) < 2:
            raise ConfigError(
                f"SuperNetModule got {len(given)} branch(es): there is nothing to choose. Give at least two, or write the "
                "layer itself"
            )
        if not shared:
            _check_sharing(given)
        _check_dtypes(given)
        self.branches = nn.ModuleList(given)
        self.gumbel_softmax = bool(gumbel_softmax)
        self.hard_softmax = bool(hard_softmax)
        self.temperature = check_temperature(temperature)

    @property
    def settings(self) -> Mapping[str, Any]:
        """`gumbel_softmax`, `hard_softmax` and `temperature`."""
        return {
            "gumbel_softmax": self.gumbel_softmax,
            "hard_softmax": self.hard_softmax,
            "temperature": self.temperature,
        }

    def forward(self, *inputs: Any) -> Tensor:
        """Mean of all branches in train mode, the first branch in eval mode."""
        if not self.training:
            return self.branches[0](*inputs)
        weight = 1 / len(self.branches)
        total = self.branches[0](*inputs) * weight
        for branch in list(self.branches)[1:]:
            total = total + branch(*inputs) * weight
        return total

    def extra_repr(self) -> str:
        kind = ("hard " if self.hard_softmax else "") + ("Gumbel " if self.gumbel_softmax else "") + "softmax"
        return f"{kind}, temperature={self.temperature:g}"


LayerChoice = SuperNetModule
"""The same class under the name that other libraries use."""


def check_temperature(temperature: Any) -> float:
    """A usable temperature.

    Raises:
        ConfigError: it is no finite number > 0.
    """
    is_number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    if not is_number or not math.isfinite(temperature) or temperature <= 0:
        raise ConfigError(
            f"temperature must be a finite number > 0, got {temperature!r}: 1 is usual, towards 0 is harder"
        )
    return float(temperature)


def _check_sharing(branches: list[nn.Module]) -> None:
    owner: dict[int, tuple[int, str]] = {}
    for index, branch in enumerate(branches):
        tensors = [*branch.named_parameters(), *branch.named_buffers()]
        for name, tensor in tensors:
            first, first_name = owner.setdefault(id(tensor), (index, name))
            if first != index:
                raise ConfigError(
                    f"SuperNetModule: branch {index} shares {name!r} with branch {first} ({first_name!r}). Branches compete, "
                    "so each needs tensors of its own: copy.deepcopy the layer, or allow it with shared=True"
                )


def _check_dtypes(branches: list[nn.Module]) -> None:
    first: tuple[int, Any] | None = None
    for index, branch in enumerate(branches):
        for name, parameter in branch.named_parameters():
            if not parameter.is_floating_point():
                continue
            first = first or (index, parameter.dtype)
            if parameter.dtype != first[1]:
                raise ConfigError(
                    f"SuperNetModule: {name!r} of branch {index} is {parameter.dtype}, branch {first[0]} is {first[1]}: "
                    "their outputs are mixed, so bring all branches to one dtype"
                )
