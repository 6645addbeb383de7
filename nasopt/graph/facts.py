"""What do the rules say? Plain records: the price of a call, who reads channels, and the ints that follow them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from nasopt.graph.branches.regions import ALWAYS, Region
from nasopt.graph.layer_shape import Kind, LayerShape

# A number of channels: a constant, or the labels that are counted.
Count = int | Tensor


class Extent(int):
    """A size of an activation, as an int that remembers the labels along it."""

    labels: tuple[Tensor, ...]

    def __new__(cls, value: int, labels: Sequence[Tensor]) -> Extent:
        extent = super().__new__(cls, value)
        extent.labels = tuple(labels)
        return extent


@dataclass
class CostTerm:
    """What one call costs: a `LayerShape` whose channel counts are label vectors where channels may go;
    so are the heads of a multi-head layer, which lead its kernel.

    `key` names the stored weights: terms of one key share them, and storage is counted once. The call runs in any of
    `regions`; the layer has a bias in any of `bias_regions`.
    """

    layer: str
    node: str
    key: str
    kind: Kind
    in_channels: Count
    out_channels: Count
    kernel: tuple[Count, ...]
    positions: int
    output_size: tuple[int, ...]
    stride: tuple[int, ...]
    groups: Count
    bias_regions: list[Region] = field(default_factory=list)
    regions: list[Region] = field(default_factory=lambda: [ALWAYS])
    weight_bits: int = 32
    activation_bits: int = 32

    @property
    def bias(self) -> bool:
        """Whether the layer has a bias somewhere."""
        return bool(self.bias_regions)

    def layer_shape(self, keep: Tensor | None = None) -> LayerShape:
        """The exact shape: all channels, or those whose labels `keep` (one bool per label)."""

        def number(count: Count) -> int:
            if isinstance(count, int):
                return count
            return len(count) if keep is None else int(keep[count].sum())

        return LayerShape(
            kind=self.kind,
            in_channels=number(self.in_channels),
            out_channels=number(self.out_channels),
            kernel=tuple(number(size) for size in self.kernel),
            positions=self.positions,
            output_size=self.output_size,
            stride=self.stride,
            groups=number(self.groups),
            bias=int(self.bias),
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
        )


@dataclass(frozen=True)
class Read:
    """A layer mixes channels: position i of its `weight` along `dim` multiplies the channel with label `labels[i]`."""

    layer: str
    node: str
    weight: str
    dim: int
    labels: Tensor


@dataclass(frozen=True)
class Derived:
    """Channels behind a choice whose branches keep channels of their own.

    `labels[c]` lives iff `branches[i][c]` lives, where i is the branch that is chosen. They stand along `dim`, < 0.
    """

    choice: str
    labels: Tensor
    branches: tuple[Tensor, ...]
    dim: int


@dataclass(frozen=True)
class Attribute:
    """An int that must follow the channels: of a module, or an argument of a function call.

    Its value is the number of labels kept, times `factor`.
    """

    node: str
    module: str | None
    name: str | int
    labels: Tensor
    factor: int = 1
