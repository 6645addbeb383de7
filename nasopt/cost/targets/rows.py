"""How does a layer reach a latency kernel? As one row of integers, the same eleven columns for every target."""

from __future__ import annotations

from math import prod
from typing import Any

from nasopt.errors import ConfigError, nearest
from nasopt.graph.layer_shape import LayerShape

KIND_CODES: dict[str, int] = {
    "conv": 0,
    "depthwise": 1,
    "linear": 2,
    "matmul": 3,
    "conv_transpose": 4,
    "norm": 5,
    "parameter": 6,
    "embedding": 7,
    "add": 8,
    "pool": 9,
}
"""Kind of layer -> the integer that kernels compare. `"add"` (elementwise, two inputs) and `"pool"` (average or maximum
over a window) are no kinds of `LayerShape`: they are priced by rows that someone writes."""

COLUMNS = ("kind", "in", "out", "k0", "k1", "h", "w", "s0", "s1", "groups", "bits")
"""Columns of a row. `k0 k1` taps, `h w` positions where the kernel is applied, `s0 s1` stride, `bits` of a weight.
One-dimensional layers have `k1 = w = s1 = 1`; of three dimensions the first two are merged."""

DEPLOYED_BITS = 8
"""Targets run int8 networks: a layer that is wider during the search (float32) is priced as deployed, with 8 bits."""


def row_fields(shape: LayerShape) -> tuple[Any, ...]:
    """The columns of a layer, in the order of `COLUMNS`; numbers stay what they are in `shape` (ints or tensors).

    Positions come from `output_size`, except where the kernel visits something else than output positions or no
    spatial size is known (linear, matmul, transposed convolutions): then `h = positions, w = 1`.

    Raises:
        ConfigError: the kind has no code.
    """
    code = KIND_CODES.get(shape.kind)
    if code is None:
        raise ConfigError(
            f"layer kind {shape.kind!r} cannot be priced: kernels know {', '.join(KIND_CODES)}."
            f"{nearest(shape.kind, KIND_CODES)}"
        )
    k0, k1 = _two(shape.kernel)
    s0, s1 = _two(shape.stride)
    visits_outputs = shape.kind not in ("linear", "matmul", "conv_transpose") and len(shape.output_size) > 0
    h, w = _two(shape.output_size) if visits_outputs else (shape.positions, 1)
    if shape.kind == "parameter" and not visits_outputs and isinstance(h, int) and h == 1:
        h = shape.taps  # used at least once each
    groups = shape.groups if shape.kind in ("conv", "conv_transpose") else 1
    return (code, shape.in_channels, shape.out_channels, k0, k1, h, w, s0, s1, groups, shape.weight_bits)


def _two(sizes: tuple[Any, ...]) -> tuple[Any, Any]:
    """Sizes along any number of dimensions as two: `()` -> 1, 1; `(a,)` -> a, 1; `(a, b, c)` -> a * b, c."""
    if len(sizes) < 2:
        return (sizes[0] if sizes else 1), 1
    return prod(sizes[:-1]), sizes[-1]
