"""Windows of convolutions and poolings: kernel, stride, padding, dilation, and zeros that others put around their input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

Around = tuple[tuple[int, int], ...]
"""Elements before and after each spatial dimension."""

POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d)
_POOL_FUNCTIONS = (F.max_pool1d, F.max_pool2d, F.avg_pool1d, F.avg_pool2d)


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
    if averages and grows(module, node, given):  # rows and columns that the last windows read beyond the end
        sizes = zip(given.shape[2:], *(_each(x, dims) for x in window[:3]))
        return [max(n + 2 * p, (windows(n, k, s, p) - 1) * s + k) for n, k, s, p in sizes]
    valid = same = True
    padded = []
    for n, (before, after), k, s, p, d in zip(given.shape[2:], around, *(_each(x, dims) for x in window)):
        inner = n - before - after
        total = (-(-inner // s) - 1) * s + (k - 1) * d + 1 - inner  # below 0 where the last elements are not read
        valid = valid and before + p == 0 and after + p == 0
        same = same and not averages and (before + p, after + p) == (total // 2, total - total // 2)
        padded.append(n + 2 * p)
    return None if valid or same else padded


def grows(module: nn.Module | None, node: fx.Node, given: Tensor) -> bool:
    """Whether a pooling rounds its sizes up, and its last windows end outside."""
    window = _window(module, node)
    ceil = getattr(module, "ceil_mode", False) if module is not None else node.kwargs.get("ceil_mode", False)
    if window is None or not ceil:
        return False
    sizes = zip(given.shape[2:], *(_each(x, given.dim() - 2) for x in window[:3]))
    return any((windows(n, k, s, p) - 1) * s + k > n + 2 * p for n, k, s, p in sizes)


def is_cut(kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], end: Sequence[int]) -> bool:
    """Whether a file has the whole result of a transposed convolution and cuts it.

    A runtime knows "valid", nothing cut off, and "same", `s` elements for each, of those left over the odd one at the end.
    """
    sizes = list(zip(kernel, stride, padding, end))
    valid = all(p == 0 for _, _, p, _ in sizes)
    same = all((p, p - e) == ((k - s) // 2, k - s - (k - s) // 2) for k, s, p, e in sizes)
    return not valid and not same and any(s > 1 for s in stride) and all(e <= p for _, _, p, e in sizes)


def cuts_result(layer: nn.Module | None) -> bool:
    """Whether a layer is a transposed convolution whose result is cut."""
    if not isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d)):
        return False
    dims = len(layer.kernel_size)
    return isinstance(layer.padding, tuple) and is_cut(
        *(_each(size, dims) for size in (layer.kernel_size, layer.stride, layer.padding, layer.output_padding))
    )


def windows(size: int, kernel: int, stride: int, padding: int, ceil: bool = True) -> int:
    """How many there are along a dimension; with sizes rounded up, too, none starts behind the end."""
    count = (size + 2 * padding - kernel + (stride - 1 if ceil else 0)) // stride + 1
    return count - (ceil and (count - 1) * stride >= size + padding)


def knows_padding(module: nn.Module | None, node: fx.Node) -> bool:
    """Whether a node is a convolution or a pooling with a window."""
    return _window(module, node) is not None


def _window(module: nn.Module | None, node: fx.Node) -> tuple[Any, Any, Any, Any] | None:
    """Kernel, stride, padding and dilation."""
    layer: Any = module
    if isinstance(module, (nn.Conv1d, nn.Conv2d, *POOLS)):
        return layer.kernel_size, layer.stride, layer.padding, getattr(layer, "dilation", 1)
    pooled = function_of(node) in _POOL_FUNCTIONS
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


def takes_maxima(module: nn.Module | None, node: fx.Node) -> bool:
    """Whether a node is a max pool: zeros that others put around its input are no padding of its own, which is -inf."""
    return isinstance(module, (nn.MaxPool1d, nn.MaxPool2d)) or function_of(node) in (F.max_pool1d, F.max_pool2d)


def _averages(node: fx.Node) -> bool:
    return function_of(node) in (F.avg_pool1d, F.avg_pool2d)


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


def function_of(node: fx.Node) -> Any:
    """What a node calls, None for a layer, whose name may be that of a method."""
    return None if node.op == "call_module" else node.target


def _each(size: Any, dims: int) -> tuple[int, ...]:
    return tuple(size) if isinstance(size, (tuple, list)) else (int(size),) * dims
