"""Whether a search has done anything: what was stepped and what was differentiated, for a word where nothing came of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from nasopt.errors import NoEffectWarning

# Fewer steps are no search yet.
_FEW = 40


@dataclass
class Effects:
    """What has happened to the parameters of one search model since it was made.

    A step of an optimizer writes into a parameter, which torch counts. A copy of the model starts anew.

    Attributes:
        differentiated: how often a gradient has reached the regularizer.
    """

    differentiated: int = 0
    _start: dict[int, int] = field(default_factory=dict)

    def begin(self, parameters: Iterable[nn.Parameter]) -> None:
        """Count from here."""
        self._start = {id(parameter): parameter._version for parameter in parameters if not parameter.is_inference()}

    def watch(self, loss: Tensor) -> None:
        """Count the backward passes that reach a loss."""
        if loss.requires_grad:
            loss.register_hook(self._reached)

    def _reached(self, gradient: Tensor) -> None:
        self.differentiated += 1

    def steps(self, parameters: Iterable[nn.Parameter]) -> int | None:
        """How often some of them were written; None where they are others than at the beginning."""
        found = list(parameters)
        if any(id(parameter) not in self._start for parameter in found):
            return None
        return max((parameter._version - self._start[id(parameter)] for parameter in found), default=0)

    def __deepcopy__(self, memo: dict[int, Any]) -> Effects:
        return Effects()

    def __getstate__(self) -> dict[str, Any]:
        return vars(Effects())


def warn_without_effect_of_search(model: Any, effects: Effects, is_seed: bool, stacklevel: int) -> None:
    """A `NoEffectWarning` where a search ran and its export is the seed, or lost channels to no regularizer.

    Args:
        model: a search model that decides masks alone.
        effects: of it.
        is_seed: whether everything is kept.
    """
    stepped, arch_stepped = effects.steps(model.net_parameters()), effects.steps(model.arch_parameters())
    if stepped is None or arch_stepped is None or max(stepped, arch_stepped, effects.differentiated) < _FEW:
        return
    if not is_seed:
        if effects.differentiated == 0:
            _say(
                "channels or taps went although get_regularization_loss() has never been part of a loss: the optimizer's weight "
                "decay did that, or the task. Take model.param_groups(), which switches it off for the architecture parameters",
                stacklevel,
            )
        return
    if stepped == 0 and arch_stepped == 0:
        cause = (
            "no parameter of the search model was stepped: the optimizer holds others, such as those of the seed. Make it of "
            "model.param_groups() after wrapping"
        )
    elif not any(parameter.requires_grad for parameter in model.arch_parameters()):
        cause = "the architecture parameters are frozen (requires_grad=False)"
    elif arch_stepped == 0:
        cause = "the architecture parameters were not stepped: the optimizer does not hold them. Make it of model.param_groups()"
    elif effects.differentiated == 0:
        cause = (
            "get_regularization_loss() was never part of a loss that was differentiated: add it to the loss, as a tensor "
            "(no .item(), no detach())"
        )
    else:
        lowest = min(float(parameter.detach().min()) for parameter in model.arch_parameters())
        cause = (
            f"after {arch_stepped} steps the lowest architecture parameter is {lowest:.3g}, and what falls below 0.5 is cut: "
            "train longer, or raise the strength of the regularizer or the learning rate of the architecture parameters "
            "(param_groups(arch_lr=))"
        )
    _say(f"the exported network is the seed. {cause[0].upper()}{cause[1:]}", stacklevel)


def _say(message: str, stacklevel: int) -> None:
    warnings.warn(f"arch_export: {message}", NoEffectWarning, stacklevel=stacklevel + 1)
