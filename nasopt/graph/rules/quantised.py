"""Quantised layers: channels as those of the torch layers that they come from, at widths of their own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nasopt.graph.call import Call
from nasopt.graph.registry import layer_rule
from nasopt.graph.rules.convolution import convolution_layer, transposed_convolution
from nasopt.graph.rules.linear import linear_layer
from nasopt.graph.rules.norms import batch_norm
from nasopt.nn.quantise import Quantise
from nasopt.nn.quantised import (
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
    QuantLinear,
)
from nasopt.nn.quantised_norm import QuantBatchNorm


def _run(layer: Any, x: Tensor, mask: Tensor) -> Tensor:
    return layer.run(x, mask)  # type: ignore[no-any-return]


@layer_rule(Quantise, searchable="bits", memory="view")
def quantise(call: Call) -> Any:
    call.stores_nothing()
    return call.args[0]


@layer_rule(QuantConv1d, QuantConv2d, searchable="channels, kernel, bits", run_masked=_run, searchable_kernel=True)
@layer_rule(QuantConv3d, searchable="channels, bits", run_masked=_run)
def quantised_convolution(call: Call) -> Any:
    return _with_steps(call, convolution_layer(call), channel_dim=1 - _layer(call).weight.dim())


@layer_rule(
    QuantConvTranspose1d, QuantConvTranspose2d, QuantConvTranspose3d, searchable="channels, bits", run_masked=_run
)
def quantised_transposed(call: Call) -> Any:
    return _with_steps(call, transposed_convolution(call), channel_dim=1 - _layer(call).weight.dim())


@layer_rule(QuantLinear, searchable="channels, bits", run_masked=_run)
def quantised_linear(call: Call) -> Any:
    return _with_steps(call, linear_layer(call), channel_dim=-1)


layer_rule(QuantBatchNorm, memory="in_place")(batch_norm)


def _layer(call: Call) -> Any:
    return call.module


def _with_steps(call: Call, written: Any, channel_dim: int) -> Any:
    """Steps are cut with the output channels of the weight."""
    layer = _layer(call)
    channels = call.labels.line(written, channel_dim % written.dim())
    channels = channels[: layer.weight_log_steps.shape[1]]
    call.slices("weight_log_steps", 1, channels)
    if layer.channel_bits is not None:
        call.slices("channel_bits", 0, channels)
    return written
