"""SuperNet: a search over alternative layers, one of which remains at each place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from nasopt.search.choice_settings import ChoiceSettings, PathMode
from nasopt.search.model import SearchModel
from nasopt.search.schedule import Schedule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from nasopt.search.options import SearchOptions


class SuperNet(SearchModel):
    """A model in which the branches of every `SuperNetModule` are searched together with their weights: choices, no masks.

    The architecture parameter is one vector `choice_logits`, initially 0: in train mode the branches are mixed (or one is
    drawn) by the softmax of theirs, in eval mode the branch with the largest one runs alone, which is what `arch_export`
    leaves.

    Source: mixtures by softmax: Liu et al., "DARTS", 2019; Gumbel softmax: Jang et al., 2017; one or two active paths: Cai
    et al., "ProxylessNAS", 2019.

    Args:
        model: the seed, with `SuperNetModule`s in it; it is copied, never altered.
        input_shape: of one sample, without batch, e.g. `(3, 32, 32)`; several inputs: a sequence of shapes.
        gumbel_softmax, hard_softmax: settings of all choices; None: as every `SuperNetModule` says.
        temperature: of all choices: a number, or a schedule (`nasopt.schedule`) that `set_epoch` follows; None: as every
            `SuperNetModule` says.
        paths: which branches run in a training step: `"all"`; `"sampled"`, one that is drawn (needs hard weights); `"two"`,
            two that are drawn and weighed against each other.
        options: `input_example`, `regularizer`, `relative`, `leaf_modules`, `strict`, `unpriced`, `verify`: see
            `nasopt.search.options.SearchOptions`.

    Raises:
        ConfigError: an argument is not usable, a branch does not fit, or the model fails on the example input.
        TraceError: the model's `forward` depends on data.
        UnknownOperationError: with `strict`.
    """

    def __init__(
        self,
        model: nn.Module,
        input_shape: Sequence[Any] | None = None,
        *,
        gumbel_softmax: bool | None = None,
        hard_softmax: bool | None = None,
        temperature: float | Schedule | None = None,
        paths: PathMode = "all",
        **options: Unpack[SearchOptions],
    ) -> None:
        choices = ChoiceSettings(gumbel_softmax, hard_softmax, temperature, paths)
        super().__init__(model, input_shape, masks=None, choices=choices, **options)
