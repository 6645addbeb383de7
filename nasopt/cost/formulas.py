"""Formulas: what one call of a layer costs, as pure functions of its `LayerShape`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nasopt.cost.runtime import Runtime
from nasopt.graph.layer_shape import LayerShape, facts_of


def layer_size(shape: LayerShape) -> Any:
    """Weights stored for a layer [weights], norms folded.

    `out * in / groups * taps`, plus one bias per output channel where `shape.bias` is set. A product of activations
    stores nothing, nor does a pooling.
    """
    if not facts_of(shape.kind).stores:
        return 0 * shape.out_channels
    return (shape.in_channels * shape.taps / shape.groups + shape.bias) * shape.out_channels


def layer_macs(shape: LayerShape) -> Any:
    """Multiply-accumulates of one call of a layer for one sample [MAC].

    Convolution: `positions * out * in / groups * taps`, padding counted like data; linear: `in * out` per row.
    Bias, norms, activations, lookups and elementwise weights are free. An adder layer multiplies nothing: see
    `layer_additions`, and `layer_ops` for a metric in which it is not free.
    """
    if not facts_of(shape.kind).multiplies:
        return 0 * shape.out_channels
    return _products(shape)


def _products(shape: LayerShape) -> Any:
    """Pairs of a weight and an activation that one call brings together."""
    return shape.in_channels * shape.out_channels * (shape.positions * shape.taps) / shape.groups


def layer_size_bits(shape: LayerShape) -> Any:
    """Storage of a layer's weights [bit]: `layer_size` times `weight_bits` (1 binary, 8 int8, 32 as trained).

    Biases count at `bias_bits`, 32 in a quantised layer; without those as weights.
    """
    if not facts_of(shape.kind).stores:
        return 0 * shape.out_channels
    of_bias = shape.weight_bits if shape.bias_bits is None else shape.bias_bits
    weights = shape.in_channels * shape.taps / shape.groups * shape.weight_bits
    return (weights + shape.bias * of_bias) * shape.out_channels


def layer_bit_ops(shape: LayerShape) -> Any:
    """Work of one call [bit op]: MACs times the widths of weights and activations."""
    return layer_macs(shape) * shape.weight_bits * shape.activation_bits


def layer_weights(shape: LayerShape) -> Any:
    """Weights of a layer; biases, and norms that no layer absorbs, left aside."""
    if not facts_of(shape.kind).stores or shape.kind == "norm":
        return 0 * shape.out_channels
    return shape.in_channels * shape.taps / shape.groups * shape.out_channels


def layer_bits_of_weights(shape: LayerShape) -> Any:
    return layer_weights(shape) * shape.weight_bits


# Of a quantised layer, per output channel: a bias and a multiplier of 32 bits, and a shift.
_CHANNEL_BYTES = 4 + 4 + 1


def layer_flash(shape: LayerShape) -> Any:
    """Flash for a layer [B]: weights packed at their width; 9 B per output channel of a quantised layer for bias, multiplier
    and shift, elsewhere the bias at the width of weights."""
    if not facts_of(shape.kind).stores:
        return 0 * shape.out_channels
    weights = shape.in_channels * shape.taps / shape.groups * shape.weight_bits / 8
    of_bias = shape.weight_bits if shape.bias_bits is None else shape.bias_bits
    # Layers that are not quantised give their biases the width of weights.
    quantised = _is_other(of_bias, shape.weight_bits)
    return (weights + quantised * _CHANNEL_BYTES + (1 - quantised) * shape.bias * of_bias / 8) * shape.out_channels


BINARY_SPEEDUP = 64
"""Products of one bit by one bit that one 64-bit XNOR and population count do at once."""


def layer_ops(shape: LayerShape) -> Any:
    """Bit-aware work of one call [MAC]: MACs, of which those with 1-bit weights and 1-bit activations count 1/64.

    A layer with only its weights binary still multiplies real activations, and counts in full. A pooling that a search
    added works on real values: one comparison or addition per tap and output but the first, 8 for a 3x3 window. A tap of
    an adder layer, a difference and a sum, counts like the product and sum of one MAC.
    """
    if shape.kind == "pool":
        return shape.out_channels * shape.positions * (shape.taps - 1)
    if shape.kind == "adder":
        return _products(shape)
    macs = layer_macs(shape)
    binary = _is_one(shape.weight_bits) * _is_one(shape.activation_bits)
    return macs * (1 - binary * (1 - 1 / BINARY_SPEEDUP))


def layer_multiplications(shape: LayerShape) -> Any:
    """Multiplications of one call [operations]: one per MAC, none in an adder layer."""
    return layer_macs(shape)


def layer_additions(shape: LayerShape) -> Any:
    """Additions and subtractions of one call [operations]: one per MAC, two per tap of an adder layer."""
    return 2 * _products(shape) if shape.kind == "adder" else layer_macs(shape)


def _is_one(bits: Any) -> Any:
    """1 where a width is one bit, else 0; numbers or tensors."""
    return (bits == 1) * 1


def _is_other(bits: Any, than: Any) -> Any:
    """1 where two widths differ, else 0; numbers or tensors."""
    return (bits != than) * 1


def layer_flash_in(runtime: Runtime, shape: LayerShape) -> Any:
    """Flash for a layer with a runtime [B]."""
    if not facts_of(shape.kind).stores:
        return 0 * shape.out_channels
    bits = shape.weight_bits
    bits = bits.clamp(max=8) if isinstance(bits, Tensor) else min(bits, 8)
    weights = shape.in_channels * shape.out_channels * shape.taps / shape.groups * (bits / 8)
    described = runtime.layer_code_bytes + runtime.layer_file_bytes + runtime.channel_file_bytes * shape.out_channels
    return weights + runtime.bias_bytes * shape.bias * shape.out_channels + described
