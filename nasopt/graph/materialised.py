"""What converters to TFLite make of single nodes: fused functions, padding as an operation, copies into torch's order.

TFLite runs on images with channels last. Read off the files that litert-torch 0.10 writes.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from nasopt.graph.cost_terms import CostTerm
from nasopt.graph.layer_shape import facts_of

Around = tuple[tuple[int, int], ...]
"""Elements before and after each spatial dimension."""

_CLIPPING = (nn.ReLU, nn.ReLU6)
_CLIPPING_FUNCTIONS = (F.relu, F.relu6, F.relu_, torch.relu, torch.relu_, "relu", "relu_")
_FUSING = (torch.add, torch.sub, torch.mul, operator.add, operator.sub, operator.mul, operator.iadd, operator.imul)
_FUSING_METHODS = ("add", "sub", "mul", "add_", "sub_", "mul_")
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d)
_REDUCTIONS = (torch.mean, torch.sum, torch.amax, torch.flatten, torch.reshape, "mean", "sum", "amax", "flatten")
_RESHAPES = ("view", "reshape")


def fuses(
    module: nn.Module | None, node: fx.Node, before: nn.Module | None, writer: fx.Node, term: CostTerm | None
) -> bool:
    """Whether `node` becomes part of the operation `writer`, whose result nobody else reads.

    Args:
        module, before: their layers, None for functions.
        term: what the writer costs.
    """
    multiplies = term is not None and facts_of(term.kind).multiplies
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return term is not None and facts_of(term.kind).absorbs
    if isinstance(module, nn.Hardtanh) and not isinstance(module, _CLIPPING):
        clips = (module.min_val, module.max_val) in ((0.0, 6.0), (-1.0, 1.0))
    else:
        clips = isinstance(module, _CLIPPING) or node.target in _CLIPPING_FUNCTIONS
    sums = writer.target in _FUSING or writer.target in _FUSING_METHODS
    return clips and (multiplies or sums or isinstance(before, _POOLS))


def padding_of(module: nn.Module | None, node: fx.Node, given: Tensor, around: Around | None) -> list[int] | None:
    """Spatial size of the padded input, where padding is an operation of its own; None where there is no such one.

    A runtime knows "valid" and "same". "Same" puts `(ceil(n / s) - 1) s + (k - 1) d + 1 - n` elements around `n`, the
    odd one at the end; torch puts equally many at both ends, so with stride 2 over an even size they differ.

    Args:
        module, node: the layer or function that pads, anything.
        given: its input, `around` which zeros were put before: elements before and after each dimension.
    """
    window = _window(module, node)
    dims = given.dim() - 2
    if window is None or isinstance(window[2], str):
        return None
    around = around or ((0, 0),) * dims
    valid = same = True
    padded = []
    for n, (before, after), k, s, p, d in zip(given.shape[2:], around, *(_each(x, dims) for x in window)):
        inner = n - before - after
        total = max((-(-inner // s) - 1) * s + (k - 1) * d + 1 - inner, 0)
        valid = valid and before + p == 0 and after + p == 0
        same = same and (before + p, after + p) == (total // 2, total - total // 2)
        padded.append(n + 2 * p)
    return None if valid or same else padded


def knows_padding(module: nn.Module | None, node: fx.Node) -> bool:
    """Whether a node is a convolution or a pooling with a window."""
    return _window(module, node) is not None


def _window(module: nn.Module | None, node: fx.Node) -> tuple[Any, Any, Any, Any] | None:
    """Kernel, stride, padding and dilation."""
    layer: Any = module
    if isinstance(module, (nn.Conv1d, nn.Conv2d, *_POOLS)):
        return layer.kernel_size, layer.stride, layer.padding, getattr(layer, "dilation", 1)
    if node.target in (F.conv1d, F.conv2d, torch.conv1d, torch.conv2d):
        values = {**dict(zip(("input", "weight", "bias", "stride", "padding", "dilation"), node.args)), **node.kwargs}
        weight = values["weight"]
        if isinstance(weight, fx.Node) and isinstance(weight.meta["value"], Tensor):
            kernel = tuple(weight.meta["value"].shape[2:])
            sizes = (values.get(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1)))
            stride, padding, dilation = map(_numbers, sizes)
            return kernel, stride, padding, dilation
    return None


def _numbers(argument: Any) -> Any:
    """An argument with the values of the example in place of the nodes that compute sizes."""
    return fx.node.map_arg(argument, lambda node: node.meta["value"])


def zeros_around(module: nn.Module | None, node: fx.Node) -> Around | None:
    """Elements before and after each spatial dimension, of a node that pads space with zeros; None for any other."""
    layer: Any = module
    if isinstance(module, (nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d)):
        pad, value = layer.padding, getattr(layer, "value", 0)
    elif node.target in (F.pad, torch._C._nn.pad):
        values = {**dict(zip(("input", "pad", "mode", "value"), node.args)), **node.kwargs}
        if values.get("mode", "constant") != "constant":
            return None
        pad, value = _numbers(values["pad"]), _numbers(values.get("value")) or 0
    else:
        return None
    dims = node.meta["value"].dim() - 2
    pad = [*pad, *[0] * (2 * dims - len(pad))]
    if value != 0 or len(pad) > 2 * dims or min(pad) < 0:
        return None
    return tuple((int(pad[2 * i]), int(pad[2 * i + 1])) for i in reversed(range(dims)))


def copies_to_torch_order(module: nn.Module | None, node: fx.Node, given: Tensor) -> bool:
    """Whether a node mixes space and channels, or drops space, so that its input is first transposed to channels first."""
    if given.dim() != 4 or given.shape[1] == 1 or given.shape[2] * given.shape[3] == 1:
        return False
    if isinstance(module, nn.Flatten) or node.target in _REDUCTIONS or node.target in _RESHAPES:
        keeps = node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False)
        return keeps is not True
    return False


def _each(size: Any, dims: int) -> tuple[int, ...]:
    return tuple(size) if isinstance(size, (tuple, list)) else (int(size),) * dims
