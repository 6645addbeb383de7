"""Rows: layers as twelve integers, the form in which compiled latency kernels take them."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from nasopt.graph.layer_shape import KINDS, LayerShape, facts_of

KIND_CODES: dict[str, int] = {kind: code for code, kind in enumerate(KINDS)}
"""Kind of layer -> the integer that kernels compare with `row.kind`."""


class Row(NamedTuple):
    """One layer, for a kernel. One-dimensional layers have `k1 = w = s1 = 1`; of three the first two are merged.

    Attributes:
        kind: code of its kind, from `KIND_CODES`.
        cin, cout: channels read and written.
        k0, k1: taps.
        h, w: positions where the kernel is applied.
        s0, s1: stride.
        groups: of a grouped convolution, else 1.
        bits, act_bits: of a weight, of an activation that it reads.
    """

    kind: int
    cin: int
    cout: int
    k0: int
    k1: int
    h: int
    w: int
    s0: int
    s1: int
    groups: int
    bits: int
    act_bits: int


COLUMNS = ("kind", "in", "out", "k0", "k1", "h", "w", "s0", "s1", "groups", "bits", "act_bits")
"""What the fields of a `Row` are called in arrays, files and errors."""

DEPLOYED_BITS = 8
"""Targets run int8 networks: a layer that is wider during the search (float32) is priced as deployed, with 8 bits."""
WIDTHS = slice(COLUMNS.index("bits"), None)
"""The columns that hold widths."""


def row_fields(shape: LayerShape) -> tuple[Any, ...]:
    """The columns of a layer, in the order of `COLUMNS`; numbers stay what they are in `shape` (ints or tensors).

    Positions come from `output_size`, except where the kernel visits something else than output positions or no
    spatial size is known (linear, matmul, transposed convolutions): then `h = positions, w = 1`.

    Raises:
        ConfigError: there is no such kind of layer.
    """
    facts = facts_of(shape.kind)
    k0, k1 = _two(shape.kernel)
    s0, s1 = _two(shape.stride)
    visits_outputs = facts.spatial and len(shape.output_size) > 0
    h, w = _two(shape.output_size) if visits_outputs else (shape.positions, 1)
    if shape.kind == "parameter" and not visits_outputs and isinstance(h, int) and h == 1:
        h = shape.taps  # used at least once each
    groups = shape.groups if facts.grouped else 1
    code = KIND_CODES[shape.kind]
    widths = (shape.weight_bits, shape.activation_bits)
    return (code, shape.in_channels, shape.out_channels, k0, k1, h, w, s0, s1, groups, *widths)


def _two(sizes: tuple[Any, ...]) -> tuple[Any, Any]:
    """Sizes along any number of dimensions as two: `()` -> 1, 1; `(a,)` -> a, 1; `(a, b, c)` -> a * b, c."""
    if len(sizes) < 2:
        return (sizes[0] if sizes else 1), 1
    return prod(sizes[:-1]), sizes[-1]
