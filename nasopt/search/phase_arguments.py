"""Checks of what a `PhaseSchedule` is given: strength, what waits, teacher, and whether the search is long enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from nasopt.arguments import check_count, check_number
from nasopt.errors import ConfigError, nearest
from nasopt.search.calibrate import unrounded
from nasopt.search.model import SearchModel
from nasopt.search.parameters import MASKS, WAY
from nasopt.search.schedule import Schedule, constant


def make_strength(strength: float | Schedule | None, model: SearchModel) -> Schedule:
    if strength is None:
        if model.budget is None:
            raise ConfigError(
                "PhaseSchedule needs a strength: how much the regularizer weighs in the loss, e.g. strength=0.1 for a model "
                "with relative=True. Only a model with a Budget does without"
            )
        return constant(1.0)
    numbers: tuple[Any, ...] = (strength.start, strength.end) if isinstance(strength, Schedule) else (strength,)
    for number in numbers:
        usable = isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)
        if not usable or number < 0:
            raise ConfigError(
                f"PhaseSchedule: strength must be a number >= 0 or a schedule of such numbers, got {strength!r}"
            )
    return strength if isinstance(strength, Schedule) else constant(float(strength))


def check_teacher(model: SearchModel, teacher: Any) -> None:
    if not isinstance(teacher, nn.Module):
        raise ConfigError(f"PhaseSchedule: teacher must be an nn.Module, got {type(teacher).__name__}")
    example, found = model.example, []
    for network in (model, teacher):
        modes = {module: module.training for module in network.modules()}
        try:
            with torch.no_grad(), unrounded(model.net):  # whose steps may wait for the first batch
                found.append(network.eval()(*example.inputs))
        except Exception as error:
            raise ConfigError(f"PhaseSchedule: the teacher does not take the model's inputs: {error}") from error
        finally:
            for module, mode in modes.items():
                module.training = mode
    if not isinstance(found[0], torch.Tensor):
        raise ConfigError(
            f"PhaseSchedule: a teacher teaches one tensor of logits, and {type(model).__name__} gives a "
            f"{type(found[0]).__name__}: take a model of logits alone, or learn from a teacher in a loss of your own"
        )
    own, theirs = (getattr(output, "shape", type(output).__name__) for output in found)
    if own != theirs:
        raise ConfigError(
            f"PhaseSchedule: the teacher's outputs are {_form(theirs)} where the model's are {_form(own)}: it has to judge the "
            "same classes. Take a teacher of this task, or give it another head"
        )


def _form(shape: Any) -> str:
    return str(tuple(shape)) if isinstance(shape, torch.Size) else str(shape)


def check_freeze(freeze: Mapping[str, float], kinds: Mapping[str, Any]) -> dict[str, float]:
    if not isinstance(freeze, Mapping):
        raise ConfigError(f"PhaseSchedule: freeze is a dict like {{'masks': 5}} [epochs], got {freeze!r}")
    for kind, epochs in freeze.items():
        if kind not in kinds:
            raise ConfigError(
                f"PhaseSchedule: freeze holds {kind!r}: known are {', '.join(kinds)}.{nearest(str(kind), kinds)}"
            )
        check_number(f"PhaseSchedule: freeze[{kind!r}]", epochs, 0, unit="epochs")
    return dict(freeze)


def check_steps_of(model: SearchModel, epochs: int, steps: int, optimizers: Sequence[Optimizer]) -> None:
    """Raise a `ConfigError` if so many epochs of that many steps are too few to decide anything."""
    check_count("PhaseSchedule: steps", steps, 1)
    total = epochs * steps
    if model.importance is not None:
        needed = model.importance.steps
        if total < needed:
            raise ConfigError(
                f"PhaseSchedule: {epochs} epochs of search of {steps} steps are {total}, but limits of Budget(steps={needed}) "
                f"fall over {needed} steps, so they would not be reached: search for {math.ceil(needed / steps)} epochs, or wrap "
                f"the model with Budget(..., steps={total})"
            )
        return
    masks = {id(p) for name, p in model.named_arch_parameters() if name in MASKS and p.numel()}
    adams = [optimizer for optimizer in optimizers if isinstance(optimizer, (Adam, AdamW))]
    rates = [
        float(group["lr"])
        for optimizer in adams
        for group in optimizer.param_groups
        if any(id(p) in masks for p in group["params"])
    ]
    if rates and 0 < max(rates) * total < WAY:
        raise ConfigError(
            f"PhaseSchedule: {total} steps of about {max(rates):g} move a mask by {max(rates) * total:g} at most, its threshold "
            f"is {WAY:g} away, so nothing can be decided: search for {math.ceil(WAY / max(rates) / steps)} epochs or more, or "
            f"with arch_lr={4 * WAY / total:.2g}"
        )
