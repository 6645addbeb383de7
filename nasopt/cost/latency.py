"""How long does a layer take on an embedded target? Exact cycles of rows and layers, and the latency metrics.

>>> from nasopt.cost import latency
>>> from nasopt.graph.layer_shape import LayerShape
>>> conv = LayerShape("conv", 16, 32, kernel=(3, 3), positions=256, output_size=(16, 16), stride=(2, 2))
>>> latency.latency_metric("gap8").cost(conv)
71040
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from nasopt.cost.metrics import Metric, register_family
from nasopt.cost.targets.registry import get_target
from nasopt.cost.targets.rows import COLUMNS, DEPLOYED_BITS, row_fields
from nasopt.cost.targets.target import Target
from nasopt.errors import ArchitectureError, ConfigError, UnpricedError
from nasopt.graph.layer_shape import LayerShape


def evaluate(target: str | Target, rows: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Exact cycles of many layers at once, on the target's compiled kernel.

    Args:
        target: name or object.
        rows: integers, shape `(..., 11)`, columns as in `nasopt.cost.targets.COLUMNS`; see `rows_of`.

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
        rows: integers, shape `(..., l, 11)`: variants of a network of `l` layers.

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
    """Cycles summed over the last but one axis of `rows` (..., l, 11)."""
    from nasopt.cost.targets.signature import sum_rows  # numba is imported when a latency is first asked for

    leading = rows.shape[:-2]
    flat = np.ascontiguousarray(rows, dtype=np.int64).reshape(prod(leading), *rows.shape[-2:])
    totals = np.empty(len(flat), dtype=np.int64)
    sum_rows(target.kernel, flat, target.law_array(), totals)
    return totals.reshape(leading)


def rows_of(shapes: Sequence[LayerShape]) -> NDArray[np.int64]:
    """Rows for `evaluate`, shape `(len(shapes), 11)`; fields must be integers.

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
        if isinstance(value, torch.Tensor) or value != int(value):
            raise ConfigError(
                f"{shape.kind} layer: column {column!r} is {value!r}, and exact cycles exist for whole counts only: "
                f"round it, or use the metric with float64 tensors"
            )
        if value < 1 and column != "kind":
            raise ConfigError(f"{shape.kind} layer: column {column!r} is {value!r}: a layer has at least 1 of each")
        row.append(int(value))
    row[-1] = min(row[-1], DEPLOYED_BITS)
    return row


def layer_cycles(target: str | Target, shape: LayerShape) -> Any:
    """Cycles of one call of a layer on a target.

    Integer fields (Python ints or integer tensors) give the exact integer of the kernel. Floating tensors `(n,)` give
    `n` values, interpolated between the knots of the target and differentiable (see `soft_cycles`).

    Raises:
        UnpricedError: the target has no law for this kind of layer.
        ArchitectureError: a field is NaN or infinite.
        ConfigError: a field is not positive, or a fraction outside a tensor.
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
    tensors = [field for field in fields if isinstance(field, torch.Tensor)]
    if not tensors:
        return int(evaluate(target, np.asarray(exact_row(shape))))
    for field in tensors:
        if not bool(torch.isfinite(field.detach()).all()):
            raise ArchitectureError(
                f"{shape.kind} layer: a count is NaN or infinite, so it has no latency: look for the step at which the "
                f"architecture parameters left the finite range (learning rate, loss scale)"
            )
    if not any(field.is_floating_point() for field in tensors):
        return _exact_tensor(target, fields)
    from nasopt.cost.soft_latency import soft_cycles  # imports this module

    return soft_cycles(target, shape.kind, fields)


def _exact_tensor(target: Target, fields: tuple[Any, ...]) -> torch.Tensor:
    """Exact cycles (n,) int64 of rows whose columns are ints and integer tensors."""
    tensors = [torch.as_tensor(field).cpu() for field in fields]
    rows = torch.stack(torch.broadcast_tensors(*(field.to(torch.int64) for field in tensors)), dim=-1)
    rows[..., -1].clamp_(max=DEPLOYED_BITS)
    if bool((rows[..., 1:] < 1).any()):
        raise ConfigError("a layer with fewer than 1 channel, tap, position or bit has no latency: keep at least one")
    device = next(field.device for field in fields if isinstance(field, torch.Tensor))
    return torch.from_numpy(evaluate(target, rows.numpy())).to(device)


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
        return Metric(f"latency:{target.name}", "cycles", per_call=True, cost=partial(layer_cycles, target))
    return Metric(f"latency_ms:{target.name}", "ms", per_call=True, cost=partial(_layer_ms, target))


def _layer_ms(target: Target, shape: LayerShape) -> Any:
    return target.milliseconds(layer_cycles(target, shape))


register_family("latency", latency_metric)
register_family("latency_ms", partial(latency_metric, unit="ms"))
