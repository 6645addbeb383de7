"""PIT, pruning in time: a search over channels, receptive fields, dilations and kernel rings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from nasopt.search.masks import MaskSettings
from nasopt.search.model import SearchModel
from nasopt.search.seed import excluded_layers

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from nasopt.search.options import SearchOptions


class PIT(SearchModel):
    """A model whose channels and kernels are searched together with its weights: masks, no choices.

    Architecture parameters are three flat vectors, initially 1: `alpha` (one entry per block of channels), `beta` (receptive
    fields and rings) and `gamma` (dilations); the latter two exist where there are kernels to search. A mask is the step
    H(parameter - 0.5) forward and the identity backward. At least one block of every group of channels is always alive.

    Source: Risso et al., "Lightweight neural architecture search for temporal convolutional networks at the edge"
    (PIT), IEEE Transactions on Computers, 2023; rings of 2-D kernels are an addition.

    Args:
        model: the seed; it is copied, never altered.
        input_shape: of one sample, without batch, e.g. `(3, 32, 32)`; several inputs: a sequence of shapes.
        channel_block: channels live and die in blocks of this many; a smaller remainder is a block of its own.
        kernel_search: whether receptive fields, dilations (Conv1d) and kernel rings (Conv2d) are searched.
        exclude_names: names or globs of layers that keep their outputs and kernels; their inputs still follow their
            neighbours. The name of a container means all layers in it.
        exclude_types: classes of such layers.
        options: `input_example`, `regularizer`, `relative`, `leaf_modules`, `strict`, `unpriced`, `verify`: see
            `nasopt.search.options.SearchOptions`.

    Raises:
        ConfigError: an argument is not usable, or the model fails on the example input.
        TraceError: the model's `forward` depends on data.
        UnknownOperationError: with `strict`.
    """

    def __init__(
        self,
        model: nn.Module,
        input_shape: Sequence[Any] | None = None,
        *,
        channel_block: int = 1,
        kernel_search: bool = True,
        exclude_names: Sequence[str] | str = (),
        exclude_types: Sequence[type[nn.Module]] | type[nn.Module] = (),
        **options: Unpack[SearchOptions],
    ) -> None:
        exclude = excluded_layers(exclude_names, exclude_types)
        masks = MaskSettings(channel_block, kernel_search, exclude)
        super().__init__(model, input_shape, masks=masks, choices=None, **options)
