"""What a cost metric may know of a layer: a plain value at the waist between layers and costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal[
    "conv", "conv_transpose", "depthwise", "linear", "matmul", "norm", "pool", "parameter", "embedding", "adder"
]


@dataclass(frozen=True)
class LayerShape:
    """One call of one layer, for one sample (batch 1).

    Numbers may be Python ints (exact), or float64 tensors of equal shape `(n,)`: then the value describes `n` calls
    of one kind at once and a metric returns `n` costs, differentiable in the soft counts.

    Attributes:
        kind: `"conv"` (dense or grouped, 1-3 spatial dimensions), `"conv_transpose"`, `"depthwise"` (one input channel
            per group), `"linear"`, `"matmul"` (a product of two activations: nothing stored), `"norm"` (a
            normalisation that no layer before it absorbs: scale and shift per channel), `"pool"` (a pooling that a search
            added: nothing stored; a seed's own poolings are free), `"parameter"` (weights that
            are used elementwise, or whose use has no formula), `"embedding"` (a lookup table), `"adder"` (a convolution
            of absolute differences: two additions and no multiplication per tap).
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

    @property
    def taps(self) -> Any:
        """Kernel positions that are multiplied for one pair of channels: the product of `kernel`."""
        if not self.kernel:
            return 1
        product = self.kernel[0]
        for size in self.kernel[1:]:
            product = product * size
        return product
