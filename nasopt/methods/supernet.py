"""SuperNet: which of several layers, written by hand, should stand at each place?"""

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
from nasopt.search.branch_search import BranchSearch, has_branches
from nasopt.search.choices import Choices, PathMode
from nasopt.search.model import CostOf
from nasopt.search.price import NetworkCost
from nasopt.search.schedule import Schedule


@dataclass
class _Derived:
    """What SuperNet computes once from the analysis."""

    choices: Choices
    cost: NetworkCost
    forward: Callable[..., Any]


class SuperNet(BranchSearch):
    """A model in which every `SuperNetModule` is searched together with its weights.

    The architecture parameter is one vector `choice_logits`, initially 0: in train mode the branches are mixed (or one is
    drawn) by the softmax of theirs, in eval mode the branch with the largest one runs alone, which is what `arch_export`
    leaves.

    Source: mixtures by softmax: Liu et al., "DARTS", 2019; Gumbel softmax: Jang et al., 2017; one or two active paths: Cai
    et al., "ProxylessNAS", 2019.

    Args:
        model: the seed, with `SuperNetModule`s in it; it is copied, never altered.
        input_shape: of one sample, without batch, e.g. `(3, 32, 32)`; several inputs: a sequence of shapes.
        input_example: instead of `input_shape`: a batch as a tensor, a tuple of tensors, or a dict of keyword arguments.
        regularizer: as of `PIT`; expected over the branches.
        relative: express every cost as a fraction of the seed's (first branches), so that one strength fits every model.
        gumbel_softmax, hard_softmax: settings of all choices; None: as every `SuperNetModule` says.
        temperature: of all choices: a number, or a schedule (`nasopt.schedule`) that `set_epoch` follows; None: as every
            `SuperNetModule` says.
        paths: which branches run in a training step: `"all"`; `"sampled"`, one that is drawn (needs hard weights); `"two"`,
            two that are drawn and weighed against each other.
        leaf_modules: names, globs or classes of modules that are not traced into.
        strict: raise for an operation without a rule.
        verify: run search model and seed once in either mode and compare them; an error names the first difference.

    Raises:
        ConfigError: an argument is not usable, a branch does not fit, or the model fails on the example input.
        TraceError: the model's `forward` depends on data.
        UnknownOperationError: with `strict`.
    """

    _arch_names = ("choice_logits",)
    _searches_channels = False

    def __init__(
        self,
        model: nn.Module,
        input_shape: Sequence[Any] | None = None,
        *,
        input_example: Any = None,
        regularizer: Any = "size",
        relative: bool = False,
        gumbel_softmax: bool | None = None,
        hard_softmax: bool | None = None,
        temperature: float | Schedule | None = None,
        paths: PathMode = "all",
        leaf_modules: Sequence[Any] = (),
        strict: bool = False,
        verify: bool = True,
    ) -> None:
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
            leaf_modules=leaf_modules,
            strict=strict,
            verify=verify,
        )
        if not has_branches(self):
            warnings.warn(
                "SuperNet has no effect on this model: it holds no SuperNetModule. Write some, or let "
                "nasopt.with_candidates put them in",
                NoEffectWarning,
                stacklevel=2,
            )

    # --- decisions

    def _run(self, inputs: tuple[Any, ...]) -> Any:
        return self._call((), self._paths(), inputs)

    def _cost_of(
        self, metric: AnyMetric, branches: Tensor, of: CostOf = "expected", level: float | None = None
    ) -> Tensor:
        counts = branches.new_zeros(0, dtype=torch.float32 if branches.device.type == "mps" else torch.float64)
        return self._method.cost(metric, counts, branches)

    def _kept(self) -> tuple[Tensor, dict[str, KernelCut]]:
        return torch.ones(len(self.analysis.labels), dtype=torch.bool), {}

    # --- derived state

    @property
    def _method(self) -> _Derived:
        return self._derived["method"]

    def _derive(self, analysis: Analysis) -> _Derived:
        return _Derived(self._make_choices(analysis), NetworkCost(analysis), masked_function(analysis, {}, {}))
