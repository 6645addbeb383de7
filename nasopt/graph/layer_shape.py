"""`LayerShape`, the plain value at the waist between layers and costs, and the table of what is true of every kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from nasopt.errors import ConfigError, nearest

Kind = Literal[
    "conv",
    "depthwise",
    "linear",
    "matmul",
    "conv_transpose",
    "norm",
    "parameter",
    "embedding",
    "add",
    "pool",
    "adder",
]


@dataclass(frozen=True)
class KindFacts:
    """What every layer of a kind has in common. A new kind is a row of `KINDS` and a law in the targets that price it.

    Attributes:
        stores: it has weights.
        multiplies: its work is a sum of products over its inputs, counted in MAC.
        absorbs: it can take over a scale and a shift per output channel of a norm that follows.
        one_count: its input channels follow from its output channels, so a search has one count to vary.
        grouped: `groups` splits its channels into independent layers, rather than following from the kind.
        spatial: its kernel is applied once per element of `output_size`; otherwise `positions` alone says how often.
    """

    stores: bool = True
    multiplies: bool = False
    absorbs: bool = False
    one_count: bool = False
    grouped: bool = False
    spatial: bool = True


KINDS: dict[str, KindFacts] = {
    "conv": KindFacts(multiplies=True, absorbs=True, grouped=True),
    "depthwise": KindFacts(multiplies=True, absorbs=True, one_count=True),
    "linear": KindFacts(multiplies=True, absorbs=True, spatial=False),
    "matmul": KindFacts(stores=False, multiplies=True, spatial=False),
    "conv_transpose": KindFacts(multiplies=True, absorbs=True, grouped=True, spatial=False),
    "norm": KindFacts(one_count=True),
    "parameter": KindFacts(one_count=True),
    "embedding": KindFacts(one_count=True),
    "add": KindFacts(stores=False, one_count=True),
    "pool": KindFacts(stores=False, one_count=True),
    "adder": KindFacts(grouped=True),
}
"""Facts of every kind; its place is the code by which compiled kernels know it, so new ones go to the end."""


OTHER_KIND: dict[str, Kind] = {"conv": "depthwise", "depthwise": "conv"}
"""What a convolution in groups becomes once one input channel is left in every group, and a depthwise one once one is left
at all. The others stay what they are."""


def facts_of(kind: str) -> KindFacts:
    """What every layer of a kind has in common.

    Raises:
        ConfigError: there is no such kind.
    """
    if kind not in KINDS:
        raise ConfigError(
            f"layer kind {kind!r} does not exist, so no metric and no target knows what it costs: use one of "
            f"{', '.join(KINDS)}.{nearest(kind, KINDS)}"
        )
    return KINDS[kind]


@dataclass(frozen=True)
class LayerShape:
    """One call of one layer, for one sample (batch 1).

    Numbers may be Python ints (exact), or float64 tensors of equal shape `(n,)`: then the value describes `n` calls
    of one kind at once and a metric returns `n` costs, differentiable in the soft counts.

    Attributes:
        kind: `"conv"` (dense or grouped, 1-3 spatial dimensions), `"conv_transpose"`, `"depthwise"` (one input channel
            per group), `"linear"`, `"matmul"` (a product of two activations: nothing stored), `"norm"` (a
            normalisation that no layer before it absorbs: scale and shift per channel), `"add"` (an elementwise
            operation of two tensors: nothing stored), `"pool"` (a pooling that a search added: nothing stored; a seed's
            own poolings are free), `"parameter"` (weights that are used elementwise, or whose use has no formula),
            `"embedding"` (a lookup table), `"adder"` (a convolution of absolute differences: two additions and no
            multiplication per tap).
        in_channels: channels read. For `"matmul"` the length of the sum behind one output element.
        out_channels: channels written.
        kernel: taps along each spatial dimension; `()` where there is none. A multi-head depthwise layer has its heads in
            front of them.
        positions: how often the kernel is applied, per output channel: output positions of a convolution, *input*
            positions of a transposed one, rows of a linear layer or a matrix product.
        output_size: spatial size of the output, `()` where there is none.
        stride: along each spatial dimension.
        groups: of a grouped convolution; for `"depthwise"`, `"norm"`, `"pool"` and `"parameter"` equal to `in_channels`.
        bias: 1 where one more weight per output channel is stored: the layer has a bias, or a norm is folded into it.
        weight_bits, activation_bits: storage and arithmetic width of one weight and one activation [bit].
        bias_bits: of one bias [bit]; None: as of weights.
    """

    kind: Kind
    in_channels: Any
    out_channels: Any
    kernel: tuple[Any, ...] = ()
    positions: Any = 1
    output_size: tuple[Any, ...] = ()
    stride: tuple[Any, ...] = ()
    groups: Any = 1
    bias: Any = 0
    weight_bits: Any = 32
    activation_bits: Any = 32
    bias_bits: Any = None

    @property
    def taps(self) -> Any:
        """Kernel positions that are multiplied for one pair of channels: the product of `kernel`."""
        if not self.kernel:
            return 1
        product = self.kernel[0]
        for size in self.kernel[1:]:
            product = product * size
        return product
