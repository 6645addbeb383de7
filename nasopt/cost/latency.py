"""Latency and energy of layers on embedded targets: exact cycles, and values between them for soft counts.

>>> from nasopt.cost import latency
>>> from nasopt.graph.layer_shape import LayerShape, facts_of
>>> conv = LayerShape("conv", 16, 32, kernel=(3, 3), positions=256, output_size=(16, 16), stride=(2, 2))
>>> latency.latency_metric("gap8").cost(conv)
71040

Soft counts are priced by interpolation between exact values at knots, so that every law, however branchy, has a useful
gradient: see `between_knots`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nasopt.cost.metrics import Metric, Tabulation, register_converter, register_family
from nasopt.cost.targets.registry import get_target
from nasopt.cost.targets.rows import COLUMNS, DEPLOYED_BITS, WIDTHS, row_fields
from nasopt.cost.targets.target import Target
from nasopt.errors import ArchitectureError, ConfigError, UnpricedError
from nasopt.graph.layer_shape import LayerShape, facts_of

_IN, _OUT, _K0, _K1, _GROUPS = (COLUMNS.index(name) for name in ("in", "out", "k0", "k1", "groups"))
_ROUNDING = 1e-6
"""A count this near to a whole number is that number, but for the rounding of float64."""


def evaluate(target: str | Target, rows: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Exact cycles of many layers at once, on the target's compiled kernel.

    Args:
        target: name or object.
        rows: integers, shape `(..., 12)`, columns as in `nasopt.cost.targets.COLUMNS`; see `rows_of`.

    Returns:
        Cycles of each layer, int64, shape `(...)`.

    Raises:
        ConfigError: the array has another shape or is not of integers.
    """
    rows = _checked(rows, 1)
    return _sums(get_target(target), rows[..., None, :])


def evaluate_networks(target: str | Target, rows: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Exact cycles of many networks at once: `evaluate(target, rows).sum(-1)`, summed by compiled code.

    Args:
        target: name or object.
        rows: integers, shape `(..., l, 12)`: variants of a network of `l` layers.

    Returns:
        Cycles of each network, int64, shape `(...)`.

    Raises:
        ConfigError: the array has another shape or is not of integers.
    """
    return _sums(get_target(target), _checked(rows, 2))


def _checked(rows: Any, dimensions: int) -> NDArray[np.integer[Any]]:
    rows = np.asarray(rows)
    if rows.ndim < dimensions or rows.shape[-1] != len(COLUMNS) or not np.issubdtype(rows.dtype, np.integer):
        wanted = "(..., " + "layers, " * (dimensions - 1) + f"{len(COLUMNS)})"
        raise ConfigError(
            f"latency: rows have shape {rows.shape} and type {rows.dtype}, not {wanted} integers: "
            f"columns are {', '.join(COLUMNS)}; rows_of makes them from layer shapes"
        )
    return rows


def _sums(target: Target, rows: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Cycles summed over the last but one axis of `rows` (..., l, 12)."""
    from nasopt.cost.targets.signature import sum_rows  # numba is imported when a latency is first asked for

    leading = rows.shape[:-2]
    flat = np.ascontiguousarray(rows, dtype=np.int64).reshape(prod(leading), *rows.shape[-2:])
    totals = np.empty(len(flat), dtype=np.int64)
    sum_rows(target.kernel, flat, target.law_array(), totals)
    return totals.reshape(leading)


def rows_of(shapes: Sequence[LayerShape]) -> NDArray[np.int64]:
    """Rows for `evaluate`, shape `(len(shapes), 12)`; fields must be integers.

    Raises:
        ConfigError: a field is a fraction, is not positive, or is a tensor.
    """
    return np.asarray([exact_row(shape) for shape in shapes], dtype=np.int64).reshape(-1, len(COLUMNS))


def exact_row(shape: LayerShape) -> list[int]:
    """The row of one layer with integer fields.

    Raises:
        ConfigError: a field is a fraction, is not positive, or is a tensor.
    """
    row = []
    for column, value in zip(COLUMNS, row_fields(shape), strict=True):
        if isinstance(value, Tensor) or value != int(value):
            raise ConfigError(
                f"{shape.kind} layer: column {column!r} is {value!r}, and exact cycles exist for whole counts only: "
                f"round it, or use the metric with float64 tensors"
            )
        if value < 1 and column != "kind":
            raise ConfigError(f"{shape.kind} layer: column {column!r} is {value!r}: a layer has at least 1 of each")
        row.append(int(value))
    row[WIDTHS] = [min(bits, DEPLOYED_BITS) for bits in row[WIDTHS]]
    return row


def layer_cycles(target: str | Target, shape: LayerShape) -> Any:
    """Cycles of one call of a layer on a target.

    Integer fields (Python ints or integer tensors) give the exact integer of the kernel. Floating tensors `(n,)` give
    `n` values, interpolated between the knots of the target and differentiable (see `between_knots`).

    Raises:
        UnpricedError: the target has no law for this kind of layer.
        ArchitectureError: a field is NaN or infinite.
        ConfigError: a field is not positive, or a fraction outside a tensor; a quantised layer has a width that does not run.
    """
    target = get_target(target)
    if target.status(shape.kind) == "free":
        return 0 * shape.out_channels
    if target.status(shape.kind) == "unpriced":
        raise UnpricedError(
            f"target {target.name!r} has no law for {shape.kind!r} layers, so the latency of this network is unknown "
            f"there: it prices {', '.join(sorted(target.priced))}. Use another layer or target, or write a target of "
            f"your own (README of nasopt/cost)"
        )
    fields = row_fields(shape)
    tensors = [field for field in fields if isinstance(field, Tensor)]
    if not tensors:
        if shape.bias_bits is not None:
            target.runs.check(f"a {shape.kind}", [shape.weight_bits], [shape.activation_bits])
        return int(evaluate(target, np.asarray(exact_row(shape))))
    for field in tensors:
        if not bool(torch.isfinite(field.detach()).all()):
            raise ArchitectureError(
                f"{shape.kind} layer: a count is NaN or infinite, so it has no latency: look for the step at which the "
                f"architecture parameters left the finite range (learning rate, loss scale)"
            )
    if not any(field.is_floating_point() for field in tensors):
        return _exact_tensor(target, fields)
    return _soft_cycles(target, shape.kind, fields)


def _exact_tensor(target: Target, fields: tuple[Any, ...]) -> Tensor:
    """Exact cycles (n,) int64 of rows whose columns are ints and integer tensors."""
    tensors = [torch.as_tensor(field).cpu() for field in fields]
    rows = torch.stack(torch.broadcast_tensors(*(field.to(torch.int64) for field in tensors)), dim=-1)
    rows[..., WIDTHS].clamp_(max=DEPLOYED_BITS)
    if bool((rows[..., 1:] < 1).any()):
        raise ConfigError("a layer with fewer than 1 channel, tap, position or bit has no latency: keep at least one")
    device = next(field.device for field in fields if isinstance(field, Tensor))
    return torch.from_numpy(evaluate(target, rows.numpy())).to(device)


def _soft_cycles(target: Target, kind: str, fields: tuple[Any, ...]) -> Tensor:
    """Cycles (n,) float64 of `n` layers of one kind, differentiable in their channel and kernel counts.

    `fields` are the columns of a row, ints or tensors `(n,)`. Floating channels and taps are soft, everything else is
    rounded. Channels of a grouped convolution are interpolated per group. A layer with one count has that of its
    outputs; its inputs follow at a fixed ratio. Each call evaluates the compiled kernel at the corners of the cells in
    which the counts lie, which takes microseconds for a whole network; `LatencyTable` stores all corners.
    """
    given = [torch.as_tensor(field) for field in fields]
    device = next(field.device for field in given if field.ndim > 0 or field.is_floating_point())
    try:
        columns = torch.broadcast_tensors(*(field.to(device, torch.float64) for field in given))
    except RuntimeError as error:
        lengths = sorted({tuple(field.shape) for field in given})
        raise ConfigError(f"{kind} layers: counts have the shapes {lengths}: give tensors of one length") from error
    base = torch.stack([column.detach().round() for column in columns], dim=-1)  # (n, 12)
    base[..., WIDTHS].clamp_(max=DEPLOYED_BITS)
    base[..., 1:].clamp_(min=1)
    one_count = facts_of(kind).one_count
    soft = [column for column in (_OUT, _IN, _K0, _K1) if given[column].is_floating_point()]
    soft = [column for column in soft if column != _IN or not one_count]
    tile_of = {_OUT: target.tile_out, _IN: target.tile_in, _K0: 1, _K1: 1}
    groups = base[..., _GROUPS]

    def exact(counts: Tensor) -> Tensor:
        rows = base.expand(*counts.shape[:1], *base.shape).clone()  # (corners, n, 12)
        for axis, column in enumerate(soft):
            rows[..., column] = counts[:, axis] * (groups if column in (_IN, _OUT) else 1)
        if one_count and _OUT in soft:
            multiplier = (base[..., _OUT] / base[..., _IN]).round().clamp(min=1)
            rows[..., _IN] = torch.ceil(rows[..., _OUT] / multiplier)
        cycles = evaluate(target, rows.to("cpu", torch.int64).numpy())
        return torch.from_numpy(cycles.astype(np.float64)).to(device)

    if not soft:
        return exact(base.new_empty(1, 0)).squeeze(0)
    counts = torch.stack([columns[c] / (groups if c in (_IN, _OUT) else 1) for c in soft])  # (a, n)
    tiles = torch.tensor([tile_of[c] for c in soft], dtype=torch.float64, device=device)
    return between_knots(counts, tiles.view(-1, *[1] * (counts.ndim - 1)), exact)


def between_knots(
    counts: Tensor, tiles: Tensor, exact: Callable[[Tensor], Tensor], held: Tensor | None = None
) -> Tensor:
    """Values `(n,)` of a law at soft counts: multilinear between its exact values at knots.

    The knots of an axis are 1 and the multiples of its tile: between two of them the interpolant is straight, so its
    slope says what the next whole tile costs. (With a knot at every count the slope inside a tile would be 0, and a
    cliff at its edge.) At a knot the slope is that of the segment below: what removing channels saves. Counts below 1
    cost as much as 1: at least one channel of every group survives.

    Whole counts have the exact value, also between knots, and the slope of the line: searches with hard masks, whose
    counts are whole, see what the chip will take. Only fractions have the value of the line.

    Args:
        counts: `(a, n)`, soft counts of `n` layers on `a` axes.
        tiles: distance of knots, `(a, n)` or `(a, 1)`.
        exact: the law at whole counts `(m, a, n)`, without gradient: values `(m, n)`.
        held: how many tiles the law is known for `(a, n)`: larger counts cost as much as the last, and an axis of 0
            tiles does not matter. Without limit if left out.
    """
    now = counts.detach()
    index = (torch.ceil(now / tiles) - 1).clamp(min=0)  # tile below each count
    if held is not None:
        index = torch.minimum(index, (held - 1).clamp(min=0))
    below = (index * tiles).clamp(min=1)
    above = ((index + 1) * tiles).clamp(min=2)
    share = (counts.clamp(min=1) - below) / (above - below)
    nearest = now.clamp(min=1).round()
    whole = (now.clamp(min=1) - nearest).abs() < _ROUNDING
    if held is not None:
        share = torch.where(held > 0, share.clamp(max=1), 0.0)
        last = (held * tiles).clamp(min=2)
        nearest = torch.minimum(nearest, last)
        whole = whole | (held == 0) | (now >= last)

    axes = len(counts)
    upper = _corners(axes, counts.device).view(-1, axes, *[1] * (counts.ndim - 1))
    values = exact(torch.cat([torch.where(upper, above, below), nearest.unsqueeze(0)]))  # (corners + 1, n)
    weight = (1 - share[0], share[0])
    weights = torch.stack(weight)
    for axis in range(1, axes):  # (2, n) -> (4, n) ...
        weights = torch.cat([weights * (1 - share[axis]), weights * share[axis]])
    line = (weights * values[:-1]).sum(0)
    return line + torch.where(whole.all(0), values[-1] - line.detach(), 0.0)


@cache
def _corners(axes: int, device: torch.device) -> Tensor:
    """Which of the `2 ** axes` corners of a cell lie at the upper knot of each axis: bool (corners, axes)."""
    bits = torch.arange(axes, device=device)
    return ((torch.arange(2**axes, device=device).unsqueeze(-1) >> bits) & 1).bool()


def latency_metric(target: str | Target, unit: Literal["cycles", "ms"] = "cycles") -> Metric:
    """The metric "time of a layer on this target", for regularizers, reports and budgets.

    Convention: batch 1, int8 as deployed (wider layers count as 8 bits), every layer on its own, nothing overlapped.

    Raises:
        ConfigError: no target has that name, or the unit is another one.
    """
    target = get_target(target)
    if unit not in ("cycles", "ms"):
        raise ConfigError(f"latency_metric: unit is {unit!r}: use 'cycles' or 'ms'")
    if unit == "cycles":
        table = Tabulation(target, 1.0)
        return Metric(f"latency:{target.name}", "cycles", True, partial(layer_cycles, target), table, runs=target.runs)
    table = Tabulation(target, target.milliseconds(1.0))
    return Metric(f"latency_ms:{target.name}", "ms", True, partial(_layer_ms, target), table, runs=target.runs)


def _layer_ms(target: Target, shape: LayerShape) -> Any:
    return target.milliseconds(layer_cycles(target, shape))


def energy_metric(target: str | Target) -> Metric:
    """The metric "energy of a layer" [uJ] = active power [mW] x latency [ms]; idle time and peripherals are not in it.

    Published power varies by about 15 % between networks on one board, and with supply voltage: compare candidates on
    one target with it rather than targets with each other.

    Raises:
        ConfigError: no target has that name, or its active power is not known.
    """
    target = get_target(target)
    if not target.active_power_mw > 0:
        raise ConfigError(
            f"target {target.name!r} has no active power, so energy cannot be computed: use a target that has one, or "
            f"dataclasses.replace(target, active_power_mw=...) with a measured figure [mW]"
        )
    table = Tabulation(target, target.milliseconds(1.0) * target.active_power_mw)
    return Metric(f"energy:{target.name}", "uJ", True, partial(_layer_energy, target), table, runs=target.runs)


def _layer_energy(target: Target, shape: LayerShape) -> Any:
    return target.milliseconds(layer_cycles(target, shape)) * target.active_power_mw


register_family("latency", latency_metric, "TARGET")
register_family("latency_ms", partial(latency_metric, unit="ms"), "TARGET")
register_family("energy", energy_metric, "TARGET")
register_converter(Target, latency_metric)
