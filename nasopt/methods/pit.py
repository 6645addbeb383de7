"""PIT, pruning in time: which channels, receptive fields and dilations does a network need?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.cost import AnyMetric
from nasopt.errors import NoEffectWarning
from nasopt.graph.groups import Analysis
from nasopt.graph.kernels import KernelCut
from nasopt.graph.masked import masked_function
from nasopt.graph.slim import slim
from nasopt.search.fit import BudgetFit
from nasopt.search.masks import HALF, Masks, Thresholds
from nasopt.search.model import CostOf, SearchModel
from nasopt.search.price import NetworkCost
from nasopt.search.report import describe, layer_summary
from nasopt.search.structure import make_structure

# Below this share of searchable weights a search can change little.
_LITTLE = 0.1


@dataclass
class _Derived:
    """What PIT computes once from the analysis."""

    masks: Masks
    cost: NetworkCost
    fit: BudgetFit | None
    forward: Callable[..., Any]


class PIT(SearchModel):
    """A model whose channels and kernels are searched together with its weights.

    Architecture parameters are three flat vectors, initially 1: `alpha` (one entry per block of channels), `beta` (receptive
    fields and rings) and `gamma` (dilations); the latter two exist where there are kernels to search. A mask is the step
    H(parameter - 0.5) forward and the identity backward. At least one block of every group of channels is always alive.

    Source: Risso et al., "Lightweight neural architecture search for temporal convolutional networks at the edge"
    (PIT), IEEE Transactions on Computers, 2023; rings of 2-D kernels are an addition.

    Args:
        model: the seed; it is copied, never altered.
        input_shape: of one sample, without batch, e.g. `(3, 32, 32)`; several inputs: a sequence of shapes.
        input_example: instead of `input_shape`: a batch as a tensor, a tuple of tensors, or a dict of keyword arguments.
        regularizer: `"size"`, `"macs"`, `"memory"`, `"latency:TARGET"`, a `nasopt.cost.Metric`, a target, or a dict of
            several with weights; or a `nasopt.Budget` of limits.
        relative: express every cost as a fraction of the seed's, so that one strength fits every model.
        exclude_names: names or globs of layers that keep their outputs and kernels; their inputs still follow their
            neighbours. The name of a container stands for all layers in it.
        exclude_types: classes of such layers.
        channel_block: channels live and die in blocks of this many; a smaller remainder is a block of its own.
        kernel_search: whether receptive fields, dilations (Conv1d) and kernel rings (Conv2d) are searched.
        leaf_modules: names, globs or classes of modules that are not traced into: units with fixed channels.
        strict: raise for an operation without a rule, instead of fixing its channels.
        verify: run search model and seed once in either mode and compare them; an error names the first difference.

    Raises:
        ConfigError: an argument is not usable, or the model fails on the example input.
        TraceError: the model's `forward` depends on data.
        UnknownOperationError: with `strict`.
    """

    _only_shrinks = True
    _arch_names = ("alpha", "beta", "gamma")
    alpha: nn.Parameter
    beta: nn.Parameter
    gamma: nn.Parameter
    channel_block: int
    kernel_search: bool

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
        leaf_modules: Sequence[Any] = (),
        strict: bool = False,
        verify: bool = True,
    ) -> None:
        self.__dict__.update(channel_block=channel_block, kernel_search=bool(kernel_search))
        super().__init__(
            model,
            input_shape,
            input_example=input_example,
            regularizer=regularizer,
            relative=relative,
            exclude_names=exclude_names,
            exclude_types=exclude_types,
            leaf_modules=leaf_modules,
            strict=strict,
            verify=verify,
        )
        self._warn_without_effect()

    # --- decisions

    def _parameters_of_masks(self) -> dict[str, Tensor]:
        return dict(self.named_arch_parameters())

    def _thresholds(self) -> Thresholds:
        """1/2; with a budget that has once been met, whatever makes the most of it."""
        method = self._method
        if method.fit is None or self.budget is None or not bool(self.budget.reached):
            return HALF
        return method.fit(*method.masks.scores(self._parameters_of_masks()))

    def _masks(self) -> tuple[Tensor, ...]:
        """Vectors that the search graph multiplies to weights."""
        masks, parameters, thresholds = self._method.masks, self._parameters_of_masks(), self._thresholds()
        return masks.vectors(masks.slots(parameters, thresholds=thresholds), parameters, thresholds)

    def _run(self, inputs: tuple[Any, ...]) -> Any:
        return self._method.forward(self.net, self._masks(), *inputs)

    def _cost(self, metric: AnyMetric, of: CostOf = "expected") -> Tensor:
        # Masks are hard, so the expected cost is the discrete one.
        masks, parameters = self._method.masks, self._parameters_of_masks()
        if of == "smallest":
            counts = masks.smallest_counts(self.alpha.device)
        elif of == "seed":
            counts = masks.counts.seed(self.alpha.device)
        else:
            thresholds = HALF if of == "unfitted" else self._thresholds()
            counts = masks.channel_counts(masks.slots(parameters, thresholds=thresholds), parameters, thresholds)
        return self._method.cost(metric, counts)

    def _kept_labels(self) -> Tensor:
        masks = self._method.masks
        return masks.kept_labels(masks.slots(self._parameters_of_masks(), thresholds=self._thresholds()))

    def _kernel_cuts(self) -> dict[str, KernelCut]:
        return self._method.masks.kernel_cuts(self._parameters_of_masks(), self._thresholds())

    # --- results

    def _export(self) -> nn.Module:
        return slim(self.analysis, self._kept_labels(), self._kernel_cuts(), self.example.inputs)

    def arch_summary(self) -> dict[str, Any]:
        """What has been decided.

        Returns:
            `{"method", "layers", "cost"}`. Every layer that writes channels has `type`, `in_channels`, `out_channels`,
            `seed_in_channels`, `seed_out_channels`, `kernel_size`, `seed_kernel_size`, `dilation`, `searchable` and the
            `reason` why not; `cost` has `now` and `seed` for every metric of the regularizer, size and macs.
        """
        self.check_architecture()
        with torch.no_grad():
            layers = layer_summary(self.analysis, self._kept_labels(), self._kernel_cuts())
        cost = {name: {"now": c["now"], "seed": c["seed"]} for name, c in self.search_space()["cost"].items()}
        return {"method": type(self).__name__, "layers": layers, "cost": cost}

    def arch_structure(self) -> dict[str, Any]:
        """The found structure as a versioned dict of plain values (JSON); see `nasopt.restore`."""
        self.check_architecture()
        with torch.no_grad():
            return make_structure("PIT", self.analysis, self.example, self._kept_labels(), self._kernel_cuts())

    def __repr__(self) -> str:
        return describe(self)

    # --- derived state

    @property
    def _method(self) -> _Derived:
        return self._derived["method"]

    def _derive(self, analysis: Analysis) -> _Derived:
        excluded = [name for name, layer in self.net.named_modules() if self._keeps_outputs(name, layer)]
        masks = Masks(analysis, self.channel_block, self.kernel_search, excluded)
        if "alpha" not in self._parameters:
            device = next((p.device for p in self.net.parameters()), torch.device("cpu"))
            for name, size in masks.sizes.items():
                if name == "alpha" or size:
                    self.register_parameter(name, nn.Parameter(torch.ones(size, device=device)))
        forward = masked_function(analysis, masks.of_layer, masks.of_node)
        cost = NetworkCost(analysis, masks.axes)
        limits = self.regularizer.limits

        def use(counts: Tensor) -> float:
            with torch.no_grad():
                return max(float(cost(metric, counts)) / limit for metric, limit in limits)

        return _Derived(masks, cost, masks.fit(use) if limits else None, forward)

    def _warn_without_effect(self) -> None:
        space = self.search_space()
        share = space["searchable_weights"] / max(space["weights"], 1)
        if not self.alpha.numel() and not self._method.masks.axes:
            warnings.warn(
                "PIT has no effect on this model: no channel and no kernel is searchable. explain() tells why",
                NoEffectWarning,
                stacklevel=3,
            )
        elif share < _LITTLE:
            warnings.warn(
                f"PIT can change little: only {share:.1%} of the weights are searchable. explain() tells why",
                NoEffectWarning,
                stacklevel=3,
            )
