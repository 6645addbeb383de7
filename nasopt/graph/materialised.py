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
_POOLINGS = (torch.mean, torch.amax, torch.max, "mean", "amax", "max")  # over all of space
_REDUCTIONS = (torch.sum, *_POOLINGS, "sum")
_RESHAPES = (torch.flatten, torch.reshape, "flatten", "view", "reshape")
_PARTS = (torch.chunk, torch.split, torch.tensor_split, torch.unbind, "chunk", "split", "tensor_split", "unbind")
# Operations of a file that one layer becomes, and how many results of its own size live inside at once.
_OPERATIONS: tuple[tuple[tuple[type[nn.Module], ...], int, int], ...] = (
    ((nn.GroupNorm,), 16, 1),
    ((nn.InstanceNorm1d, nn.InstanceNorm2d), 12, 1),
    ((nn.LayerNorm,), 13, 1),
    ((nn.modules.batchnorm._BatchNorm,), 4, 0),  # one that no layer absorbs
    ((nn.PReLU,), 4, 1),
    ((nn.LeakyReLU,), 3, 1),
    ((nn.ELU, nn.SELU, nn.CELU), 8, 1),
    ((nn.LogSoftmax,), 3, 0),
    ((nn.PixelShuffle, nn.PixelUnshuffle), 6, 0),
    ((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d), 2, 0),
)
_FUNCTIONS: dict[object, type[nn.Module]] = {
    F.group_norm: nn.GroupNorm,
    F.instance_norm: nn.InstanceNorm2d,
    F.layer_norm: nn.LayerNorm,
    F.prelu: nn.PReLU,
    F.leaky_relu: nn.LeakyReLU,
    F.elu: nn.ELU,
    F.log_softmax: nn.LogSoftmax,
    torch.log_softmax: nn.LogSoftmax,
    "log_softmax": nn.LogSoftmax,
    F.pixel_shuffle: nn.PixelShuffle,
    torch.sqrt: nn.LogSoftmax,  # in float, too: there and back again
    "sqrt": nn.LogSoftmax,
    torch.amax: nn.AdaptiveMaxPool2d,
    torch.max: nn.AdaptiveMaxPool2d,
    "amax": nn.AdaptiveMaxPool2d,
    "max": nn.AdaptiveMaxPool2d,
}
_PER_FRAME = {"GRU": 19, "LSTM": 16}  # recurrent layers are unrolled


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
        clips = isinstance(module, _CLIPPING) or _function(node) in _CLIPPING_FUNCTIONS
    sums = _function(writer) in (*_FUSING, *_FUSING_METHODS)
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


def operations_of(module: nn.Module | None, node: fx.Node, given: object) -> int:
    """Operations of a file that a layer or function becomes.

    Args:
        module, node: the layer or function.
        given: its input.
    """
    if isinstance(module, nn.RNNBase) and isinstance(given, Tensor):
        frames = given.shape[1 if module.batch_first else 0] if given.dim() == 3 else len(given)
        return _PER_FRAME.get(module.mode, 10) * frames * module.num_layers * (2 if module.bidirectional else 1)
    return _expansion(module, node)[0]


def inside_of(module: nn.Module | None, node: fx.Node) -> int:
    """How many times its result a layer or function keeps in memory while it runs."""
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return 4  # accumulators
    return _expansion(module, node)[1]


def _expansion(module: nn.Module | None, node: fx.Node) -> tuple[int, int]:
    kind = type(module) if module is not None else _FUNCTIONS.get(_function(node), nn.Identity)
    return next(((count, inside) for kinds, count, inside in _OPERATIONS if issubclass(kind, kinds)), (1, 0))


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


def copies_to_torch_order(module: nn.Module | None, node: fx.Node, given: Tensor, lies_last: bool) -> bool:
    """Whether a node mixes space and channels, or drops space, so that its input is first transposed to channels first.

    Args:
        module, node: layer or function.
        given: its input.
        lies_last: whether an input of three dimensions is one of four with a height of 1 in the file.
    """
    if given.dim() not in ((3, 4) if lies_last else (4,)) or given.shape[1] == 1 or given.shape[2:].numel() == 1:
        return False
    if isinstance(module, nn.Flatten) or _function(node) in _RESHAPES:
        return True
    if _function(node) not in _REDUCTIONS:
        return False
    over = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else ())
    over = [over] if isinstance(over, int) else over
    if isinstance(over, (tuple, list)) and all(isinstance(d, int) for d in over):
        whole = sorted(d % given.dim() for d in over) == list(range(2, given.dim()))
        return (
            not (whole and _function(node) in _POOLINGS) and node.kwargs.get("keepdim", len(node.args) > 2) is not True
        )
    return True


def _each(size: Any, dims: int) -> tuple[int, ...]:
    return tuple(size) if isinstance(size, (tuple, list)) else (int(size),) * dims
