"""Formulas: real numbers that are not rounded yet, made of integers; rounded on a grid they are steps of a program."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from nasopt.errors import ExportError
from nasopt.export.integer.arithmetic import Array, multipliers, round_half_up, sum_multipliers
from nasopt.export.integer.kernels import LIMIT
from nasopt.export.integer.parts import Step, Value

# Larger biases saturate whatever stands behind them.
LARGEST_BIAS = 2**30


@dataclass(frozen=True)
class Formula:
    """`clip(sum of scale times integer, low, high)`.

    Attributes:
        kind: of the step that it becomes.
        inputs: values that it reads.
        shape: of one sample.
        layer: path of a layer or name of a node, for messages.
        scales: real value of 1, one of each term; broadcasts to `shape`.
        settings, arrays: of the step.
        largest: what the sum of integers never exceeds, per channel or altogether.
        constants: per channel: what the value is where the scale is 0, else NaN.
        low, high: bounds.
        entries: of a table: real values, of the smallest integer and so on.
    """

    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    layer: str
    scales: tuple[Array, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)
    largest: Array | None = None
    constants: Array | None = None
    low: float = -math.inf
    high: float = math.inf
    entries: Array | None = None


def rounded(formula: Formula, output: str, grid: Value) -> Step:
    """The step that rounds a formula to a grid.

    Raises:
        ExportError: a step is so small that integers of 32 bits do not hold the bias.
    """
    low, high = _bounds(formula, grid)
    settings: dict[str, Any] = {**formula.settings, "low": low, "high": high}
    arrays = dict(formula.arrays)
    if formula.entries is not None:
        arrays["entries"] = np.clip(round_half_up(_within(formula.entries / grid.step)), low, high)
        return Step("table", formula.inputs, output, settings, arrays, formula.layer)
    if formula.kind == "add":
        first, second = (float(scale) / grid.step for scale in formula.scales)
        settings["first"], settings["second"], settings["n"] = sum_multipliers(first, second)
        return Step("add", formula.inputs, output, settings, arrays, formula.layer)
    factors = np.asarray(formula.scales[0] / grid.step)
    if formula.kind == "pool" and _meets_ties(factors):
        settings["quarters"], factors = True, factors / 4
    if formula.constants is not None:
        factors = np.ascontiguousarray(factors.reshape(-1))
        fixed = ~np.isnan(formula.constants)
        assert formula.largest is not None
        # Weights of 1 bit are never 0: a factor makes their sum less than a quarter.
        quarter = np.where(fixed & (formula.largest > 0), np.ceil(np.log2(np.maximum(4 * formula.largest, 1))), 0)
        constants = round_half_up(np.clip(formula.constants[fixed] / grid.step, grid.low - 1, grid.high + 1))
        bias = arrays["bias"].astype(np.int64)
        bias[fixed] = constants * 2 ** quarter[fixed].astype(np.int64)
        factors = np.where(fixed, 2.0**-quarter, factors)
        arrays["bias"] = _limited(bias, factors, formula, high - low)
    arrays["multiplier"], arrays["shift"] = multipliers(factors)
    return Step(formula.kind, formula.inputs, output, settings, arrays, formula.layer)


def _meets_ties(factors: Array) -> bool:
    """Whether sums are divided by whole numbers, as an average on the grid of what it reads does it.

    Then many lie between two integers, which inexact multipliers move, and runtimes round to even. Sums count in quarters,
    plus one, which is too little to matter elsewhere.
    """
    wholes = np.round(1 / factors)
    return bool((np.abs(factors * wholes - 1) < 1e-9).all() and (wholes > 1).any())


def kept_in_accumulators(formula: Formula, output: str) -> tuple[Step, Value, Array]:
    """The step that leaves a formula of one term in its accumulators, the value, and its scale.

    Raises:
        ExportError: it does not fit into 32 bits.
    """
    arrays, scale = dict(formula.arrays), formula.scales[0]
    settings = dict(formula.settings)
    if formula.constants is not None:
        fixed = ~np.isnan(formula.constants)
        bias = arrays["bias"].astype(np.int64)
        if formula.largest is not None and (formula.largest[fixed] > 0).any():
            raise ExportError(
                f"layer {formula.layer!r}: weights of 1 bit cannot be the 0 of a norm's scale: give it 2 bits"
            )
        bias[fixed] = formula.constants[fixed] != 0
        flat = np.where(fixed, np.where(formula.constants == 0, 1.0, formula.constants), scale.reshape(-1))
        scale = flat.reshape(scale.shape)
        wide = np.abs(bias) > LARGEST_BIAS
        if wide.any():
            raise ExportError(_too_small(formula, int(np.flatnonzero(wide)[0])))
        arrays["bias"] = bias.astype(np.int32)
    arrays["scale"] = scale
    low, high = 1 - LIMIT, LIMIT - 1
    if formula.low == 0:
        low = settings["low"] = 0
        settings["high"] = high
    return (
        Step(formula.kind, formula.inputs, output, settings, arrays, formula.layer),
        Value(formula.shape, 32, low, high, 0.0),
        scale,
    )


def _bounds(formula: Formula, grid: Value) -> tuple[int, int]:
    """Integers of the smallest and the largest value: rounding never changes the order of two numbers."""
    low, high = (
        int(np.clip(round_half_up(np.clip(bound / grid.step, grid.low, grid.high)), grid.low, grid.high))
        for bound in (formula.low, formula.high)
    )
    return low, high


def _within(x: Array) -> Array:
    """Without what is beyond all grids, which int64 could not hold."""
    return np.clip(x, -(2.0**40), 2.0**40)


def _limited(bias: Array, factors: Array, formula: Formula, span: int) -> Array:
    """Biases of 32 bits; larger ones saturate, where the output does so too."""
    wide = np.abs(bias) > LARGEST_BIAS
    assert formula.largest is not None
    room = (LARGEST_BIAS - formula.largest) * factors
    if (wide & (room <= 2 * span)).any():
        raise ExportError(_too_small(formula, int(np.flatnonzero(wide & (room <= 2 * span))[0])))
    return np.clip(bias, -LARGEST_BIAS, LARGEST_BIAS).astype(np.int32)


def _too_small(formula: Formula, channel: int) -> str:
    return (
        f"layer {formula.layer!r}, channel {channel}: the step of its weights or of its input is so small that its bias does "
        "not fit into 32 bits. Calibrate again, or train on: a channel without weights has such a step"
    )


def of_layer(layer: Any, inputs: tuple[str, ...], read: Value, shape: tuple[int, ...], name: str) -> Formula:
    """A quantised layer with the norm that it absorbs, in eval mode and double precision.

    Raises:
        ExportError: a sum of products may need more than 32 bits.
    """
    with torch.no_grad():
        step = layer.weight_step()
        widths = torch.full_like(step, layer.bits) if layer.channel_bits is None else layer.channel_bits
        weight, grid = layer.integer_weight(), layer.grid(None, None)
        scale, shift = torch.ones_like(grid), layer.rounded_bias()
        if layer.norm is not None:
            scale, shift = layer.norm.folded(grid)
            stays = (scale != 0) | (widths == 1)
            weight = weight * _rows_first(stays.long(), layer)
        integers = weight.numpy()
        rows = np.abs(integers if not layer.output_dim else np.moveaxis(integers, 1, 0)).reshape(len(step), -1).sum(1)
        largest = np.tile(rows, layer._copies) * max(read.high, -read.low)
        grid = grid * scale.abs()
        shift = torch.zeros_like(grid) if shift is None else shift
        constant = torch.where((scale == 0) | torch.from_numpy(largest == 0), shift, torch.nan)
        bias = torch.round(shift / torch.where(grid > 0, grid, 1.0))
    biases = np.clip(bias.numpy(), -(2.0**62), 2.0**62).astype(np.int64)
    if (largest + np.minimum(np.abs(biases), LARGEST_BIAS) >= LIMIT).any():
        raise ExportError(
            f"layer {name!r}: a sum of its {rows.max()} weight units times inputs of {read.bits} bits may need more than 32 "
            "bits: give it fewer bits, or fewer inputs"
        )
    dtype = np.int8 if layer.bits <= 8 else np.int16
    settings = _settings(layer, shape)
    settings["weight_bits"] = layer.bits
    arrays = {"weight": integers.astype(dtype), "bias": biases}
    if layer.channel_bits is not None:
        arrays["channel_bits"] = layer.channel_bits.numpy().astype(np.int8)
    return Formula(
        "accumulate",
        inputs,
        shape,
        name,
        (_spread(grid.numpy(), shape, 1 if settings["kind"] != "linear" else len(shape) - 1),),
        settings,
        arrays,
        largest,
        constant.numpy(),
    )


def _rows_first(turn: Any, layer: Any) -> Any:
    if layer.output_dim == 0:
        return turn.reshape(-1, *[1] * (layer.weight.dim() - 1))
    # Groups of a transposed convolution share no norm's sign, see `points`: there is one group.
    return turn.reshape(1, -1, *[1] * (layer.weight.dim() - 2))


def _settings(layer: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    if isinstance(layer, nn.Linear):
        return {"kind": "linear"}
    stride, dilation = list(layer.stride), list(layer.dilation)
    found: dict[str, Any] = {"kind": "conv", "stride": stride, "dilation": dilation, "groups": layer.groups}
    if layer.output_dim:
        return {**found, "kind": "transposed", "before": list(layer.padding), "size": list(shape[2:])}
    if layer.padding == "valid":
        return {**found, "before": [0] * len(stride), "after": [0] * len(stride)}
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, layer.kernel_size)]
        return {**found, "before": [t // 2 for t in totals], "after": [t - t // 2 for t in totals]}
    return {**found, "before": list(layer.padding), "after": list(layer.padding)}


def of_norm(norm: Any, inputs: tuple[str, ...], read: Value, shape: tuple[int, ...], name: str) -> Formula:
    """A batch norm that no layer absorbs."""
    with torch.no_grad():
        scale, shift = norm.folded(norm.grid())
        grid = norm.grid() * scale.abs()
        bias = torch.round(shift / torch.where(grid > 0, grid, 1.0))
        constant = torch.where(scale == 0, shift, torch.nan)
    return Formula(
        "affine",
        inputs,
        shape,
        name,
        (_spread(grid.numpy(), shape, 1),),
        {},
        {
            "sign": np.sign(scale.numpy()).astype(np.int8),
            "bias": np.clip(bias.numpy(), -(2.0**62), 2.0**62).astype(np.int64),
        },
        np.full(len(scale), max(read.high, -read.low)),
        constant.numpy(),
    )


def _spread(per_channel: Array, shape: tuple[int, ...], dim: int) -> Array:
    return per_channel.reshape([-1 if i == dim else 1 for i in range(len(shape))])
