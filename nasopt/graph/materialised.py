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
from nasopt.graph.windows import POOLS, cuts_result, function_of

_CLIPPING = (nn.ReLU, nn.ReLU6)
_CLIPPING_FUNCTIONS = (F.relu, F.relu6, F.relu_, torch.relu, torch.relu_, "relu", "relu_")
_FUSING = (torch.add, torch.sub, torch.mul, operator.add, operator.sub, operator.mul, operator.iadd, operator.imul)
_FUSING_METHODS = ("add", "sub", "mul", "add_", "sub_", "mul_")
_ADDITIONS = (torch.add, operator.add, operator.iadd, "add")
_SUBTRACTIONS = (torch.sub, operator.sub, operator.isub, "sub")
_PRODUCTS = (torch.mul, operator.mul, operator.imul, "mul")
_QUOTIENTS = (torch.div, operator.truediv, operator.itruediv, "div")
_POOLINGS = (torch.mean, torch.amax, torch.max, "mean", "amax", "max")  # over all of space
_REDUCTIONS = (torch.sum, *_POOLINGS, "sum")
_RESHAPES = (
    *(torch.flatten, torch.reshape, torch.unsqueeze, torch.unflatten),
    *("flatten", "view", "reshape", "unsqueeze", "unflatten"),
)
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
    nn.Unflatten,
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
    multiplies = term is not None and facts_of(term.kind).multiplies and not cuts_result(before)
    # A norm that no layer absorbs ends in a sum.
    alone = isinstance(before, nn.modules.batchnorm._BatchNorm)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return term is not None and facts_of(term.kind).absorbs
    if isinstance(module, nn.Hardtanh) and not isinstance(module, _CLIPPING):
        clips = (module.min_val, module.max_val) in ((0.0, 6.0), (-1.0, 1.0))
    else:
        clips = isinstance(module, _CLIPPING) or function_of(node) in _CLIPPING_FUNCTIONS
        clips = clips or _clamps(node) in ((0, 6), (-1, 1), (0, None))
    sums = function_of(writer) in (*_FUSING, *_FUSING_METHODS)
    return clips and (multiplies or sums or alone or isinstance(before, POOLS))


def _clamps(node: fx.Node) -> tuple[Any, Any] | None:
    """Bounds of a clamp."""
    if function_of(node) not in (torch.clamp, "clamp"):
        return None
    low, high = (*node.args[1:], None, None)[:2]
    return node.kwargs.get("min", low), node.kwargs.get("max", high)


def is_folded(node: fx.Node) -> bool:
    """Whether a node is no operation: an activation function that another one has, arithmetic that changes nothing."""
    function, numbers = function_of(node), [value for value in node.args if isinstance(value, (int, float))]
    if len(node.args) == 2 and len(numbers) == 1:
        first = node.args[0] is numbers[0]
        adds, subtracts = function in _ADDITIONS, function in _SUBTRACTIONS and not first
        multiplies = function in _PRODUCTS or (function in _QUOTIENTS and not first)
        if ((adds or subtracts) and numbers[0] == 0) or (multiplies and numbers[0] == 1):
            return True
    return _clamps(node) == (-1, 1)


def inside_of(module: nn.Module | None) -> int:
    """How many times its result [B] a layer's kernel takes as scratch."""
    return 4 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 0  # accumulators


def splits(node: fx.Node) -> bool:
    """Whether a node makes several tensors of one, each by an operation of its own."""
    return function_of(node) in _PARTS


def joins(node: fx.Node) -> bool:
    """Whether a node is a concatenation."""
    return node.target in (torch.cat, torch.concat, torch.concatenate)


def order_of(module: nn.Module | None, node: fx.Node, given: Any, result: Any) -> Literal["last", "first", "any"]:
    """In which order of dimensions a node reads images: channels last, torch's, or whichever they have.

    Args:
        module, node: layer or function.
        given: its input.
        result: what it computes.
    """
    function = function_of(node)
    if isinstance(module, (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)) and isinstance(result, Tensor):
        return "any" if result.shape[2:].numel() == 1 else "last"
    if (
        isinstance(module, _IMAGES)
        or function in _FUNCTIONS_OF_IMAGES
        or (isinstance(module, nn.PReLU) and isinstance(given, Tensor) and given.dim() == 4)
    ):
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
    return isinstance(module, (nn.Softmax, nn.LayerNorm, nn.Flatten)) or function_of(node) in moves


def permutation_of(node: fx.Node, rank: int) -> tuple[int, ...] | None:
    """The order in which a node puts the `rank` dimensions of its input, None for what does something else."""
    function = function_of(node)
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
