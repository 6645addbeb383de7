"""MixedPrecision: a network trained as it will run, in few bits; and a search over the widths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from nasopt.search.choice_settings import ChoiceSettings
from nasopt.search.model import SearchModel
from nasopt.search.precision import Precision
from nasopt.search.schedule import Schedule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from nasopt.search.options import SearchOptions


class MixedPrecision(SearchModel):
    """A model whose weights and activations are rounded while it trains: widths, no masks and no branches.

    One width is quantisation-aware training; of several, every layer's and every tensor class's width is searched together
    with the weights: they are mixed by the softmax of `choice_logits`, and the likeliest one runs in eval mode.

    Source: Esser et al., "Learned step size quantization" (LSQ), ICLR 2020; Cai and Vasconcelos, "Rethinking differentiable
    search for mixed-precision neural networks" (EdMIPS), CVPR 2020.

    Args:
        model: the seed; it is copied, never altered.
        input_shape: of one sample, without batch, e.g. `(3, 32, 32)`; several inputs: a sequence of shapes.
        precision: a `nasopt.Precision`, or a width in bits, e.g. 8; default: weights of 2, 4 or 8 bits, activations of 8.
        temperature: of the softmax: a number, or a schedule (`nasopt.schedule`) that `set_epoch` follows; None: 1.
        options: `input_example`, `regularizer`, `relative`, `leaf_modules`, `strict`, `unpriced`, `verify`: see
            `nasopt.search.options.SearchOptions`; the regularizer is `"size_bits"` by default.

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
        temperature: float | Schedule | None = None,
        **options: Unpack[SearchOptions],
    ) -> None:
        options.setdefault("regularizer", "size_bits")
        options.setdefault("precision", Precision())
        super().__init__(
            model,
            input_shape,
            masks=None,
            choices=ChoiceSettings(temperature=temperature),
            **options,
        )
