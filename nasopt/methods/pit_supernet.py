"""PITSuperNet: which of several layers, and how wide, in one search. Composes the choices of SuperNet and the masks of PIT."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nasopt.cost import AnyMetric
from nasopt.errors import ConfigError, NoEffectWarning, nearest
from nasopt.graph.branches.run import Paths
from nasopt.graph.groups import Analysis
from nasopt.graph.kernels import KernelCut
from nasopt.graph.masked import masked_function
from nasopt.search.branch_search import BranchSearch, has_branches
from nasopt.search.choices import Choices, PathMode
from nasopt.search.masks import Masks
from nasopt.search.model import CostOf
from nasopt.search.price import NetworkCost
from nasopt.search.schedule import Schedule

BranchMasks = Literal["shared", "independent"]
_BRANCH_MASKS = ("shared", "independent")
_MASKS = ("alpha", "beta", "gamma")


@dataclass
class _Derived:
    """What PITSuperNet computes once from the analysis."""

    choices: Choices
    masks: Masks
    cost: NetworkCost
    forward: Callable[..., Any]


class PITSuperNet(BranchSearch):
    """A model in which the branches of every `SuperNetModule` and the channels and kernels of all layers are searched.

    Architecture parameters are those of both searches: `choice_logits`, and `alpha`, `beta`, `gamma` as in `PIT`. Outputs of
    branches meet in a sum. With `branch_masks="shared"` they therefore share one mask; with `"independent"` every branch
    has a mask of its own and what reads the choice follows the chosen branch, wherever no other layer (a residual sum, the
    network's output) ties these channels.

    Args:
        model, input_shape, input_example, regularizer, relative: as in `SuperNet`.
        exclude_names, exclude_types, channel_block, kernel_search: as in `PIT`.
        gumbel_softmax, hard_softmax, temperature, paths: as in `SuperNet`.
        autoconvert_layers: False: no masks at all, a SuperNet search alone.
        branch_masks: `"shared"` or `"independent"`.
        freeze_masks_epochs: masks stay as they are until `set_epoch` reaches this epoch, so that branches are weighed first.
        leaf_modules, strict: as in `SuperNet`.

    Raises:
        ConfigError: an argument is not usable, a branch does not fit, or the model fails on the example input.
        TraceError: the model's `forward` depends on data.
        UnknownOperationError: with `strict`.
    """

    _arch_names = ("choice_logits", *_MASKS)
    alpha: nn.Parameter
    channel_block: int
    kernel_search: bool
    freeze_masks_epochs: float

    def __init__(
        self,
        model: nn.Module,
        input_shape: Sequence[Any] | None = None,
        *,
        input_example: Any = None,
        regularizer: Any = "size",
        relative: bool = False,
        exclude_names: Sequence[str] = (),
        exclude_types: Sequence[type[nn.Module]] = (),
        channel_block: int = 1,
        kernel_search: bool = True,
        gumbel_softmax: bool | None = None,
        hard_softmax: bool | None = None,
        temperature: float | Schedule | None = None,
        paths: PathMode = "all",
        autoconvert_layers: bool = True,
        branch_masks: BranchMasks = "independent",
        freeze_masks_epochs: float = 0,
        leaf_modules: Sequence[Any] = (),
        strict: bool = False,
        verify: bool = True,
    ) -> None:
        if branch_masks not in _BRANCH_MASKS:
            hint = nearest(branch_masks, _BRANCH_MASKS) if isinstance(branch_masks, str) else ""
            raise ConfigError(f"unknown branch_masks {branch_masks!r}: known are {', '.join(_BRANCH_MASKS)}.{hint}")
        if not freeze_masks_epochs >= 0 or not math.isfinite(freeze_masks_epochs):
            raise ConfigError(f"freeze_masks_epochs must be a finite number >= 0, got {freeze_masks_epochs!r}")
        self.__dict__.update(
            channel_block=channel_block,
            kernel_search=bool(kernel_search) and bool(autoconvert_layers),
            freeze_masks_epochs=freeze_masks_epochs,
            _searches_channels=bool(autoconvert_layers),
            _branches_apart=branch_masks == "independent",
        )
        super().__init__(
            model,
            input_shape,
            gumbel_softmax=gumbel_softmax,
            hard_softmax=hard_softmax,
            temperature=temperature,
            paths=paths,
            input_example=input_example,
            regularizer=regularizer,
            relative=relative,
            exclude_names=exclude_names,
            exclude_types=exclude_types,
            leaf_modules=leaf_modules,
            strict=strict,
            verify=verify,
        )
        if not has_branches(self):
            warnings.warn(
                "PITSuperNet finds no SuperNetModule in this model, so it searches channels and kernels only, as PIT does",
                NoEffectWarning,
                stacklevel=2,
            )

    @property
    def masks_are_frozen(self) -> bool:
        """Whether `freeze_masks_epochs` still holds the masks."""
        return self._epoch < self.freeze_masks_epochs

    # --- decisions

    def _mask_parameters(self) -> dict[str, Tensor]:
        own = dict(self.named_arch_parameters())
        found: dict[str, Tensor] = {name: own[name] for name in _MASKS if name in own}
        found.setdefault("alpha", self.choice_logits.new_zeros(0))
        return {name: p.detach() for name, p in found.items()} if self.masks_are_frozen else found

    def _levels(self) -> list[float]:
        return [] if self.masks_are_frozen else self._method.masks.levels(self._mask_parameters())

    def _run(self, inputs: tuple[Any, ...]) -> Any:
        masks, parameters, paths = self._method.masks, self._mask_parameters(), self._paths()
        if self._explores and self._choices.paths != "sampled":
            slots = masks.any_branch(masks.slots(parameters))
            return self._call(masks.vectors(slots, parameters), self._fold_masks(paths, slots), inputs)
        # One branch runs: what reads the choice sees its mask. Its weight gets its gradient from the output alone.
        branches, level = self._branch_probabilities()
        thresholds = masks.thresholds(parameters, level)
        slots = masks.slots(parameters, branches.detach(), thresholds)
        return self._call(masks.vectors(slots, parameters, thresholds), paths, inputs)

    def _fold_masks(self, paths: Paths, slots: Tensor) -> Paths:
        """The branches' own masks, multiplied to their weights: `theta_i m_i` per channel, no further activation."""
        active = list(paths.active)
        for choice, of_branch in self._method.masks.branch_masks(slots):
            position = self._choices.names.index(choice)
            active[position] = [
                (branch, weight * of_branch[branch].to(weight.dtype) if weight is not None else None)
                for branch, weight in active[position]
            ]
        return Paths(paths.net, active)

    def _cost_of(
        self, metric: AnyMetric, branches: Tensor, of: CostOf = "expected", level: float | None = None
    ) -> Tensor:
        masks, parameters = self._method.masks, self._mask_parameters()
        if of == "smallest":
            counts = masks.smallest_counts(branches.device, branches)
        elif of == "seed":
            counts = masks.counts.seed(branches.device)
        else:
            thresholds = masks.thresholds(parameters, level)
            slots = masks.slots(parameters, branches, thresholds)
            counts = masks.channel_counts(slots, parameters, thresholds)
        return self._method.cost(metric, counts, branches)

    def _kept(self) -> tuple[Tensor, dict[str, KernelCut]]:
        """What export keeps: one bool per label, and taps by layer."""
        masks, parameters, decided = self._method.masks, self._mask_parameters(), self._outcome()
        thresholds = masks.thresholds(parameters, decided.level)
        slots = masks.slots(parameters, self._one_hot(decided.branches), thresholds)
        return masks.kept_labels(slots), masks.kernel_cuts(parameters, thresholds)

    # --- results

    def _export(self) -> nn.Module:
        if self.masks_are_frozen:
            warnings.warn(
                f"masks are frozen until epoch {self.freeze_masks_epochs}, and the search is at epoch {self._epoch}: nothing "
                "was pruned. Call set_epoch(epoch) at the start of every epoch",
                NoEffectWarning,
                stacklevel=3,
            )
        return super()._export()

    # --- derived state

    @property
    def _method(self) -> _Derived:
        return self._derived["method"]

    def _derive(self, analysis: Analysis) -> _Derived:
        excluded = [name for name, layer in self.net.named_modules() if self._keeps_outputs(name, layer)]
        masks = Masks(analysis, self.channel_block, self.kernel_search, excluded)
        is_new = "choice_logits" not in self._parameters
        choices = self._make_choices(analysis)
        if is_new:
            for name, size in masks.sizes.items():
                if size:
                    self.register_parameter(name, nn.Parameter(torch.ones(size, device=self.choice_logits.device)))
        forward = masked_function(analysis, masks.of_layer, masks.of_node)
        return _Derived(choices, masks, NetworkCost(analysis, masks.axes), forward)
