"""What converters to TFLite make of single nodes: fused functions, padding as an operation, copies into torch's order.

TFLite runs on images with channels last. Read off the files that litert-torch 0.10 writes.
"""

from __future__ import annotations

import operator
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from nasopt.graph.cost_terms import CostTerm
from nasopt.graph.layer_shape import facts_of
from nasopt.graph.lowered import is_over_space

Around = tuple[tuple[int, int], ...]
"""Elements before and after each spatial dimension."""

_CLIPPING = (nn.ReLU, nn.ReLU6)
_CLIPPING_FUNCTIONS = (F.relu, F.relu6, F.relu_, torch.relu, torch.relu_, "relu", "relu_")
_FUSING = (torch.add, torch.sub, torch.mul, operator.add, operator.sub, operator.mul, operator.iadd, operator.imul)
_FUSING_METHODS = ("add", "sub", "mul", "add_", "sub_", "mul_")
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d)
_POOLINGS = (torch.mean, torch.amax, torch.max, "mean", "amax", "max")  # over all of space
_REDUCTIONS = (torch.sum, *_POOLINGS, "sum")
_RESHAPES = (torch.flatten, torch.reshape, "flatten", "view", "reshape", torch.unsqueeze, "unsqueeze")
_PARTS = (torch.chunk, torch.split, torch.tensor_split, torch.unbind, "chunk", "split", "tensor_split", "unbind")
# What mixes channels with space, or what the converter has no other order for.
_IN_TORCH_ORDER = (
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.LayerNorm,
    nn.ELU,
    nn.SELU,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
    nn.RNNBase,
    nn.Flatten,
)
_FUNCTIONS_IN_TORCH_ORDER = (
    *_RESHAPES,
    F.group_norm,
    F.instance_norm,
    F.layer_norm,
    F.elu,
    F.selu,
    F.pixel_shuffle,
    F.pixel_unshuffle,
    F.scaled_dot_product_attention,
    torch.roll,
    "roll",
    torch.matmul,
    torch.bmm,
    operator.matmul,
    "matmul",
    "bmm",
)
_POOL_FUNCTIONS = (F.max_pool1d, F.max_pool2d, F.avg_pool1d, F.avg_pool2d)
_SOFTMAX = (F.softmax, torch.softmax, "softmax")
_IMAGES = (
    nn.modules.conv._ConvNd,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.Upsample,
)
_FUNCTIONS_OF_IMAGES = (
    *(F.conv1d, F.conv2d, torch.conv1d, torch.conv2d, F.conv_transpose1d, F.conv_transpose2d),
    *(F.max_pool1d, F.max_pool2d, F.avg_pool1d, F.avg_pool2d, F.interpolate),
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_max_pool1d, F.adaptive_max_pool2d),
)


def fuses(
    module: nn.Module | None, node: fx.Node, before: nn.Module | None, writer: fx.Node, term: CostTerm | None
) -> bool:
    """Whether `node` becomes part of the operation `writer`, whose result nobody else reads.

    Args:
        module, before: their layers, None for functions.
        term: what the writer costs.
    """
    multiplies = term is not None and facts_of(term.kind).multiplies and not isinstance(before, nn.ConvTranspose1d)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return term is not None and facts_of(term.kind).absorbs
    if isinstance(module, nn.Hardtanh) and not isinstance(module, _CLIPPING):
        clips = (module.min_val, module.max_val) in ((0.0, 6.0), (-1.0, 1.0))
    else:
        clips = isinstance(module, _CLIPPING) or _function(node) in _CLIPPING_FUNCTIONS
        clips = clips or _clamps(node) in ((0, 6), (-1, 1), (0, None))
    sums = _function(writer) in (*_FUSING, *_FUSING_METHODS)
    return clips and (multiplies or sums or isinstance(before, _POOLS))


def _clamps(node: fx.Node) -> tuple[Any, Any] | None:
    """Bounds of a clamp."""
    if _function(node) not in (torch.clamp, "clamp"):
        return None
    low, high = (*node.args[1:], None, None)[:2]
    return node.kwargs.get("min", low), node.kwargs.get("max", high)


def is_folded(node: fx.Node) -> bool:
    """Whether an activation function has no kernel of its own, so that what runs has it in another operation."""
    return _clamps(node) == (-1, 1)


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
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return [n + 2 * p for n, p in zip(given.shape[2:], _each(window[2], dims))]
    averages = isinstance(module, (nn.AvgPool1d, nn.AvgPool2d)) or _averages(node)  # no kernel counts zeros
    around = around or ((0, 0),) * dims
    valid = same = True
    padded = []
    for n, (before, after), k, s, p, d in zip(given.shape[2:], around, *(_each(x, dims) for x in window)):
        inner = n - before - after
        total = (-(-inner // s) - 1) * s + (k - 1) * d + 1 - inner  # below 0 where the last elements are not read
        valid = valid and before + p == 0 and after + p == 0
        same = same and not averages and (before + p, after + p) == (total // 2, total - total // 2)
        padded.append(n + 2 * p)
    return None if valid or same else padded


def inside_of(module: nn.Module | None) -> int:
    """How many times its result [B] a layer's kernel takes as scratch."""
    return 4 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 0  # accumulators


def splits(node: fx.Node) -> bool:
    """Whether a node makes several tensors of one, each by an operation of its own."""
    return _function(node) in _PARTS


def _function(node: fx.Node) -> Any:
    """What a node calls, None for a layer, whose name may be that of a method."""
    return None if node.op == "call_module" else node.target


def joins(node: fx.Node) -> bool:
    """Whether a node is a concatenation."""
    return node.target in (torch.cat, torch.concat, torch.concatenate)


def knows_padding(module: nn.Module | None, node: fx.Node) -> bool:
    """Whether a node is a convolution or a pooling with a window."""
    return _window(module, node) is not None


def _window(module: nn.Module | None, node: fx.Node) -> tuple[Any, Any, Any, Any] | None:
    """Kernel, stride, padding and dilation."""
    layer: Any = module
    if isinstance(module, (nn.Conv1d, nn.Conv2d, *_POOLS)):
        return layer.kernel_size, layer.stride, layer.padding, getattr(layer, "dilation", 1)
    pooled = _function(node) in _POOL_FUNCTIONS
    if pooled:
        names = ("input", "kernel_size", "stride", "padding", *(() if _averages(node) else ("dilation",)))
        values = {**dict(zip(names, node.args)), **node.kwargs}
        kernel, stride = _numbers(values["kernel_size"]), _numbers(values.get("stride"))
        return kernel, stride or kernel, _numbers(values.get("padding", 0)), _numbers(values.get("dilation", 1))
    if node.target in (F.conv1d, F.conv2d, torch.conv1d, torch.conv2d):
        values = {**dict(zip(("input", "weight", "bias", "stride", "padding", "dilation"), node.args)), **node.kwargs}
        weight = values["weight"]
        if isinstance(weight, fx.Node) and isinstance(weight.meta["value"], Tensor):
            kernel = tuple(weight.meta["value"].shape[2:])
            sizes = (values.get(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1)))
            stride, padding, dilation = map(_numbers, sizes)
            return kernel, stride, padding, dilation
    return None


def _averages(node: fx.Node) -> bool:
    return _function(node) in (F.avg_pool1d, F.avg_pool2d)


def _numbers(argument: Any) -> Any:
    """An argument with the values of the example in place of the nodes that compute sizes."""
    return fx.node.map_arg(argument, lambda node: node.meta["value"])


def zeros_around(module: nn.Module | None, node: fx.Node) -> Around | None:
    """Elements before and after each spatial dimension, of a node that pads space with zeros; None for any other.

    Fewer than none are cut off.
    """
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
    if value != 0 or len(pad) > 2 * dims:
        return None
    return tuple((int(pad[2 * i]), int(pad[2 * i + 1])) for i in reversed(range(dims)))


def order_of(module: nn.Module | None, node: fx.Node, given: Any, result: Any) -> Literal["last", "first", "any"]:
    """In which order of dimensions a node reads images: channels last, torch's, or whichever they have.

    Args:
        module, node: layer or function.
        given: its input.
        result: what it computes.
    """
    function = _function(node)
    if isinstance(module, (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)) and isinstance(result, Tensor):
        return "any" if result.shape[2:].numel() == 1 else "last"
    if isinstance(module, _IMAGES) or function in _FUNCTIONS_OF_IMAGES:
        return "last"
    if isinstance(module, _IN_TORCH_ORDER) or function in _FUNCTIONS_IN_TORCH_ORDER:
        return "first"
    if function in _REDUCTIONS and isinstance(given, Tensor):
        keeps = node.kwargs.get("keepdim", len(node.args) > 2) is True
        if function in _POOLINGS and is_over_space(node, given):
            return "any" if given.dim() == 3 or function in (torch.mean, "mean") else "last"
        return "any" if keeps else "first"
    if isinstance(given, Tensor) and (isinstance(module, nn.Linear) or function is F.linear) and given.dim() > 2:
        return "first"
    if isinstance(module, nn.Softmax) or function in _SOFTMAX:
        dim = module.dim if isinstance(module, nn.Softmax) else node.kwargs.get("dim", (*node.args, None)[1])
        return "any" if isinstance(given, Tensor) and given.dim() == 4 and dim == 1 else "first"
    return "any"


def is_moved(module: nn.Module | None, node: fx.Node) -> bool:
    """Whether a node tells dimensions apart that a linear layer may join."""
    moves = (torch.transpose, "transpose", torch.permute, "permute", *_RESHAPES, *_SOFTMAX, *_REDUCTIONS)
    return isinstance(module, (nn.Softmax, nn.LayerNorm, nn.Flatten)) or _function(node) in moves


def permutation_of(node: fx.Node, rank: int) -> tuple[int, ...] | None:
    """The order in which a node puts the `rank` dimensions of its input, None for what does something else."""
    function = _function(node)
    given = node.args[1:]
    if function in (torch.transpose, "transpose") and len(given) == 2 and all(isinstance(d, int) for d in given):
        order = list(range(rank))
        one, two = (int(d) % rank for d in given)  # type: ignore[arg-type]
        order[one], order[two] = two, one
        return tuple(order)
    if function not in (torch.permute, "permute"):
        return None
    dims: Any = given or (node.kwargs.get("dims", ()),)
    dims = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    return tuple(d % rank for d in dims) if len(dims) == rank and all(isinstance(d, int) for d in dims) else None


def _each(size: Any, dims: int) -> tuple[int, ...]:
    return tuple(size) if isinstance(size, (tuple, list)) else (int(size),) * dims
