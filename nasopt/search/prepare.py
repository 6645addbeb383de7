"""What a search model computes once from its traced network: channels, masks, choices, prices, the masked forward pass."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from nasopt.distributed.steps import JointSteps
from nasopt.errors import NoEffectWarning
from nasopt.graph.example import Example
from nasopt.graph.groups import Analysis, Traced, analyse
from nasopt.graph.masked import masked_function
from nasopt.graph.trace import matches_module
from nasopt.search.choice_settings import ChoiceSettings
from nasopt.search.choices import Choices
from nasopt.search.decisions import Decisions
from nasopt.search.masks import Masks, MaskSettings
from nasopt.search.price import NetworkCost
from nasopt.search.report import searchable_share

# Below this share of searchable weights a search can change little.
_LITTLE = 0.1


@dataclass
class Prepared:
    """What follows from the traced network and the settings; made again after copying and loading.

    Attributes:
        analysis: channels of the seed.
        decisions: masks, choices and prices.
        forward: `(net, vectors of masks, [paths,] *inputs) -> output`.
        seed_costs: what relative costs are divided by.
        joint_steps: inside of `DistributedDataParallel`.
        outdated_ddp: one that was built for larger parameters.
    """

    analysis: Analysis
    decisions: Decisions
    forward: Callable[..., Any]
    seed_costs: dict[str, float] = field(default_factory=dict)
    joint_steps: JointSteps | None = None
    outdated_ddp: weakref.ref[Any] | None = None


def prepare(
    net: Traced,
    example: Example,
    masks: MaskSettings | None,
    choices: ChoiceSettings | None,
    strict: bool,
    method: str,
) -> Prepared:
    """Analyse a traced network for a search; `method` is its name in messages.

    Raises:
        ConfigError: the network holds a `SuperNetModule`, and there are no settings for choices.
        UnknownOperationError: with `strict`, a call has no rule.
    """

    def keeps_outputs(name: str, layer: nn.Module) -> bool:
        return masks is None or matches_module(name, layer, masks.exclude)

    analysis = analyse(net, example, strict, keeps_outputs, masks is not None and masks.independent)
    excluded = [name for name, layer in net.named_modules() if keeps_outputs(name, layer)]
    made = Masks(analysis, masks or MaskSettings(kernel_search=False), excluded)
    price = NetworkCost(analysis, made.axes)
    decisions = Decisions(made, Choices(analysis, choices, method), price, masks is not None)
    return Prepared(analysis, decisions, masked_function(analysis, made.of_layer, made.of_node))


def create_parameters(model: nn.Module, net: nn.Module, prepared: Prepared, has_masks: bool, has_choices: bool) -> None:
    """Register `choice_logits` and `temperatures`, and `alpha`, `beta`, `gamma`, as far as there is something to search."""
    like = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
    choices, masks = prepared.decisions.choices, prepared.decisions.masks
    if has_choices:
        # Weights are multiplied to activations: as exact as these, and never in half precision.
        dtype = torch.promote_types(like.dtype, torch.float32)
        model.register_parameter("choice_logits", nn.Parameter(like.new_zeros(choices.total, dtype=dtype)))
        temperatures = torch.tensor(choices.temperatures, device=like.device, dtype=dtype)
        model.register_buffer("temperatures", temperatures.reshape(-1, 1))
    for name, size in masks.sizes.items() if has_masks else ():
        if size or (name == "alpha" and not has_choices):
            model.register_parameter(name, nn.Parameter(torch.ones(size, device=like.device)))


def warn_without_effect(prepared: Prepared, has_masks: bool, has_choices: bool, method: str, stacklevel: int) -> None:
    """A `NoEffectWarning` where a search can change nothing, or little."""
    names, sizes = prepared.decisions.choices.names, prepared.decisions.masks.sizes
    share = searchable_share(prepared.analysis, prepared.decisions.masks.axes)
    little = share["searchable_weights"] / max(share["weights"], 1)
    if names:
        return
    if has_choices and not has_masks:
        message = (
            f"{method} has no effect on this model: it holds no SuperNetModule. Write some, or let nasopt.with_candidates "
            "put them in"
        )
    elif has_choices:
        message = (
            f"{method} finds no SuperNetModule in this model, so it searches channels and kernels only, as PIT does"
        )
    elif not any(sizes.values()):
        message = f"{method} has no effect on this model: no channel and no kernel is searchable. explain() tells why"
    elif little < _LITTLE:
        message = f"{method} can change little: only {little:.1%} of the weights are searchable. explain() tells why"
    else:
        return
    warnings.warn(message, NoEffectWarning, stacklevel=stacklevel + 1)
