"""Operations of a convolution in the Fermat number transform's domain, beside those of the direct sum."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from nasopt.errors import ConfigError
from nasopt.graph.layer_shape import LayerShape


@dataclass(frozen=True)
class Operations:
    """Counts for one call and one sample; modular ones take about two plain ones each.

    Attributes:
        multiplications, additions: direct: of int8 values into wide sums; transform: modular, of `bits` bits.
        shifts: modular shifts of the transforms.
        conversions: into and out of the diminished form.
        modular: whether they are modular.
    """

    multiplications: int
    additions: int
    shifts: int = 0
    conversions: int = 0
    modular: bool = False

    @property
    def plain(self) -> int:
        """All in plain operations, of which a modular one takes two."""
        return (self.multiplications + self.additions + self.shifts) * (2 if self.modular else 1) + self.conversions


def direct_ops(shape: LayerShape) -> Operations:
    """A convolution as it stands: one multiplication and one addition per MAC.

    Raises:
        ConfigError: the layer is no convolution.
    """
    _check(shape)
    macs = shape.in_channels * shape.out_channels * shape.positions * shape.taps // shape.groups
    return Operations(macs, macs)


def transform_ops(shape: LayerShape, weights_ready: bool = True, bits: int = 32) -> Operations:
    """The same convolution by transforms of the next power of two from `n + k - 1`, stride 1, n the output size.

    `2 N^2 log2 N` additions and shifts per transformed map, `N^2` products and additions per pair of channels (table 2.1 of
    the source). Strides compute what they throw away; larger outputs than one transform holds are cut into tiles.

    Source: as of `nasopt.nn.fermat`.

    Args:
        shape: of the layer.
        weights_ready: whether the kernels are stored transformed (`N^2 / k^2` times the memory), or transformed each time.
        bits: of the ring: a transform is at most `2 bits` long.

    Raises:
        ConfigError: the layer is no convolution, or its kernel is longer than a transform.
    """
    _check(shape)
    sizes = [size * step for size, step in zip(shape.output_size, shape.stride)]
    if max(shape.kernel) > 2 * bits:
        raise ConfigError(f"transform_ops: a kernel of {shape.kernel} is longer than {2 * bits}, the longest transform")
    lengths = [min(1 << (n + k - 2).bit_length(), 2 * bits) for n, k in zip(sizes, shape.kernel)]
    tiles = prod(-(-n // (length - k + 1)) for n, k, length in zip(sizes, shape.kernel, lengths))
    points = prod(lengths)
    # Every line along every dimension: N^2 log2 N butterflies per dimension, of one addition and one shift each.
    per_map = points * sum(length.bit_length() - 1 for length in lengths)
    pairs = shape.in_channels * shape.out_channels // shape.groups
    kernels = 0 if weights_ready else pairs
    maps = tiles * (shape.in_channels + shape.out_channels) + kernels
    products = tiles * pairs * points
    conversions = prod(sizes) * (shape.in_channels + shape.out_channels) + kernels * shape.taps
    return Operations(products, products + maps * per_map, maps * per_map, conversions, modular=True)


def _check(shape: LayerShape) -> None:
    if shape.kind not in ("conv", "depthwise") or not shape.kernel:
        raise ConfigError(f"a Fermat number transform computes convolutions, not {shape.kind!r} layers")


def both_ops(shape: LayerShape) -> tuple[int, int] | None:
    """Plain operations of a convolution, direct and by transforms with kernels that are stored transformed; None of others."""
    if shape.kind not in ("conv", "depthwise") or not shape.kernel or max(shape.kernel) > 64 or not shape.output_size:
        return None
    return direct_ops(shape).plain, transform_ops(shape).plain
