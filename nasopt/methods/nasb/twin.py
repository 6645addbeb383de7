"""Full-precision twins of binary networks, for pre-training, and the way back to binary; fine-tuning."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nasopt.arguments import check_number
from nasopt.checked import checked
from nasopt.errors import ConfigError, NoEffectWarning
from nasopt.graph.edit import put_module
from nasopt.nn import BinaryActivation, BinaryConv2d, TwinActivation, TwinConv2d


@checked
def binarize(model: nn.Module) -> nn.Module:
    """The binary network of a full-precision twin, weights and statistics carried over; `model` stays as it is.

    Every `TwinActivation` (tanh) becomes a sign, every `TwinConv2d` (convolution and ReLU) a binary convolution.

    Raises:
        ConfigError: the model has no such layers.
    """
    binary = _exchange(copy.deepcopy(model), {TwinActivation: _sign, TwinConv2d: _binary_conv})
    if binary is None:
        raise ConfigError(
            f"binarize: {type(model).__name__} has no TwinConv2d to binarise. It takes what "
            "full_precision(network) returned, trained or not"
        )
    return binary


@checked
def full_precision(model: nn.Module) -> nn.Module:
    """The full-precision twin of a binary network, for pre-training: conv -> ReLU -> norm, tanh in place of signs.

    Raises:
        ConfigError: the model has no binary convolution.
    """
    twin = _exchange(copy.deepcopy(model), {BinaryActivation: _tanh, BinaryConv2d: _twin_conv})
    if twin is None:
        raise ConfigError(
            f"full_precision: {type(model).__name__} has no BinaryConv2d: it takes what NASB.arch_export() returned"
        )
    return twin


@checked
def fine_tune_optimizer(model: nn.Module, lr: float = 1e-3, weight_decay: float = 0.0) -> torch.optim.Adam:
    """Adam without weight decay, as the third stage wants it.

    A given decay is applied, with a warning: it shrinks the real weights behind the signs, which only makes them flip
    more easily; binary weights are regularised as they are.
    """
    if weight_decay:
        warnings.warn(
            f"fine-tuning a binary network with weight_decay={weight_decay}: it pulls the real weights behind the signs to "
            "0, where they flip at every step. Leave it at 0",
            NoEffectWarning,
            stacklevel=2,
        )
    if not any(isinstance(module, BinaryConv2d) for module in model.modules()):
        raise ConfigError(
            f"fine_tune_optimizer: {type(model).__name__} has no binary layer: call it on what binarize(model) returned"
        )
    for name, number in (("lr", lr), ("weight_decay", weight_decay)):
        check_number(f"fine_tune_optimizer: {name}", number, 0)
    return torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay)


def _exchange(model: nn.Module, table: Mapping[type[nn.Module], Any]) -> nn.Module | None:
    """Exchange layers in place by exact type; None where there is none of them. A layer in two places stays one layer."""
    made: dict[nn.Module, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if type(module) in table:
            if module not in made:
                made[module] = table[type(module)](module).train(module.training)
            if not name:
                return made[module]
            put_module(model, name, made[module])
    return model if made else None


def _sign(_: nn.Module) -> nn.Module:
    return BinaryActivation()


def _tanh(_: nn.Module) -> nn.Module:
    return TwinActivation()


def _binary_conv(layer: nn.Conv2d) -> nn.Module:
    return BinaryConv2d.from_conv(layer)


def _twin_conv(layer: BinaryConv2d) -> nn.Module:
    sizes: tuple[Any, ...] = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    twin = nn.utils.skip_init(
        TwinConv2d,
        layer.in_channels,
        layer.out_channels,
        *sizes,
        layer.bias is not None,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    with torch.no_grad():
        twin.weight.copy_(layer.weight)
        if twin.bias is not None and layer.bias is not None:
            twin.bias.copy_(layer.bias)
    return twin
