"""Terms of what a network costs: one per call, its channels as numbers or as labels, its widths fixed or chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from torch import Tensor

from nasopt.graph.branches.regions import ALWAYS, Region
from nasopt.graph.layer_shape import OTHER_KIND, Kind, LayerShape

# Parameters used directly get one label per element; larger ones count as fixed.
_MOST_DIRECT_ELEMENTS = 1 << 22

# A number of channels: a constant, or the labels that are counted.
Count = int | Tensor


@dataclass(frozen=True)
class Site:
    """A width that is still to choose: path of the choice, and its options in bits."""

    choice: str
    widths: tuple[int, ...]


@dataclass
class CostTerm:
    """What one call costs: a `LayerShape` whose channel counts are label vectors where channels may go;
    so are the heads of a multi-head layer, which lead its kernel.

    `key` names the stored weights: terms of one key share them, and storage is counted once. The call runs in any of
    `regions`; the layer has a bias in any of `bias_regions`. With `changes_kind` it is of `OTHER_KIND` once few channels
    are left. With `shares_scale` a norm that follows cannot be folded into the weights.
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
    weight_bits: int | Site = 32
    activation_bits: int | Site = 32
    bias_bits: int | None = None
    changes_kind: bool = False
    shares_scale: bool = False

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

        few = self.changes_kind and number(self.in_channels) == (1 if self.kind == "depthwise" else self.groups)
        return LayerShape(
            kind=OTHER_KIND[self.kind] if few else self.kind,
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
            bias_bits=self.bias_bits,
        )

    def at_widths(self, both: bool = True) -> Iterator[tuple[CostTerm, Region]]:
        """The term at every width that its weight may have, and `both` activation, too; with the region where it has them."""
        weights = _options(self.weight_bits)
        for bits, chosen in weights:
            for read, also in _options(self.activation_bits) if both else [(0, ())]:
                yield replace(self, weight_bits=bits, activation_bits=read), (*chosen, *also)


def widths_of(bits: int | Site) -> tuple[int, ...]:
    """What a width is, or may become."""
    return (bits,) if isinstance(bits, int) else bits.widths


def _options(bits: int | Site) -> list[tuple[int, Region]]:
    if isinstance(bits, int):
        return [(bits, ())]
    return [(width, ((bits.choice, i),)) for i, width in enumerate(bits.widths)]
