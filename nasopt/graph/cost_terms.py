"""Terms of what a network costs: one per call, its channels as numbers or as labels, its widths fixed or chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nasopt.graph.branches.regions import ALWAYS, Region
from nasopt.graph.layer_shape import OTHER_KIND, Kind, LayerShape


@dataclass(frozen=True)
class Share:
    """Those channels of a call that have one of several widths, by position, where every channel has, or gets, its own."""

    call: str
    position: int
    channels: int | Tensor


# A number of channels: a constant, or the labels that are counted.
Count = int | Tensor


@dataclass(frozen=True)
class Site:
    """A width that is still to choose: path of the choice, its options in bits, and whether every channel has its own."""

    choice: str
    widths: tuple[int, ...]
    per_channel: bool = False


# The widths of all channels, in bits.
ChannelBits = tuple[int, ...]
WeightBits = int | Site | ChannelBits


@dataclass
class CostTerm:
    """What one call costs: a `LayerShape` whose channel counts are label vectors where channels may go (of a term `at_widths`
    shares of these); so are the heads of a multi-head layer, which lead its kernel.

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
    weight_bits: WeightBits = 32
    activation_bits: int | Site = 32
    bias_bits: int | None = None
    changes_kind: bool = False
    is_part: bool = False
    shares_scale: bool = False

    @property
    def bias(self) -> bool:
        """Whether the layer has a bias somewhere."""
        return bool(self.bias_regions)

    @property
    def has_widths_per_channel(self) -> bool:
        """Whether every channel has, or gets, a width of its own."""
        return isinstance(self.weight_bits, tuple) or (
            isinstance(self.weight_bits, Site) and self.weight_bits.per_channel
        )

    def parts(self) -> list[CostTerm]:
        """One term per width that channels have, which run one after the other; the term itself where all have one."""
        if not isinstance(self.weight_bits, tuple):
            return [self]
        bits = torch.tensor(self.weight_bits)
        channels = self.out_channels
        found = []
        for width in bits.unique():
            own = bits == width
            found.append(self._part(int(width), channels[own] if isinstance(channels, Tensor) else int(own.sum())))
        return found

    def _part(self, bits: int, channels: Any) -> CostTerm:
        counts: dict[str, Any] = {"out_channels": channels}
        if self.kind == "depthwise":
            counts |= {"in_channels": channels, "groups": channels}
        # Lists of regions are those of the whole: what is stated of them later holds for its parts.
        return replace(self, weight_bits=bits, changes_kind=False, is_part=True, key=f"{self.key}@{bits}", **counts)

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
        bits = self.weight_bits
        if self.has_widths_per_channel:
            widths = widths_of(bits)
            shares = (Share(self.node, i, self.out_channels) for i in range(len(widths)))
            weights = [(self._part(width, share), ALWAYS) for width, share in zip(widths, shares)]
        else:
            assert not isinstance(bits, tuple)
            weights = [(replace(self, weight_bits=width), chosen) for width, chosen in _options(bits)]
        for term, chosen in weights:
            for read, also in _options(self.activation_bits) if both else [(0, ())]:
                yield replace(term, activation_bits=read), (*chosen, *also)


def widths_of(bits: WeightBits) -> tuple[int, ...]:
    """What a width is, or may become."""
    return (bits,) if isinstance(bits, int) else bits.widths if isinstance(bits, Site) else tuple(sorted(set(bits)))


def _options(bits: int | Site) -> list[tuple[int, Region]]:
    if isinstance(bits, int):
        return [(bits, ())]
    return [(width, ((bits.choice, i),)) for i, width in enumerate(bits.widths)]
