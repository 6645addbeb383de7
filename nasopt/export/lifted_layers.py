"""Layers in other words for runtimes of microcontrollers: one-dimensional ones of height 1, paddings that converters know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nasopt.graph.windows import is_cut, windows

Rule = Callable[..., Tensor]  # the arguments of the function, its tensors lifted -> the lifted result


def _pair(value: Any, before: int) -> tuple[int, int]:
    return (before, int(value[0] if isinstance(value, (tuple, list)) else value))


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if (
        padding == "same"
    ):  # as the runtime has it, the odd zero at the end: written out it becomes part of the convolution
        total = (weight.shape[-1] - 1) * _pair(dilation, 1)[1]
        x, padding = pad_image(x, [total // 2, total - total // 2]), 0
    sides: Any = padding if isinstance(padding, str) else _pair(padding, 0)
    return F.conv2d(
        x,
        weight if weight.dim() == 4 else weight.unsqueeze(2),
        bias,
        _pair(stride, 1),
        sides,
        _pair(dilation, 1),
        groups,
    )


def _conv_transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    wide = weight if weight.dim() == 4 else weight.unsqueeze(2)
    sizes = (_pair(stride, 1), _pair(padding, 0), _pair(output_padding, 0))
    try:
        return _conv_transposed_2d(x, wide, bias, *sizes, groups, _pair(dilation, 1))
    except NotImplementedError:
        return F.conv_transpose2d(x, wide, bias, *sizes, groups, _pair(dilation, 1))


def _conv_transposed_2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """The whole result, cut: the converter knows "valid" and "same" alone."""
    strides, sides, ends, steps = map(_both, (stride, padding, output_padding, dilation))
    if not is_cut(weight.shape[2:], strides, sides, ends):
        raise NotImplementedError
    whole = F.conv_transpose2d(x, weight, bias, strides, 0, 0, groups, steps)
    rows, columns = (n - p - max(p - end, 0) for n, p, end in zip(whole.shape[2:], sides, ends))
    return whole[:, :, sides[0] : sides[0] + rows, sides[1] : sides[1] + columns]


def _max_pool(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    if return_indices:
        raise NotImplementedError
    sizes = (_pair(kernel_size, 1), _pair(stride or kernel_size, 1), _pair(padding, 0), _pair(dilation, 1))
    x, around = _with_copies(x, *sizes, ceil_mode)
    return F.max_pool2d(x, *sizes[:2], around, sizes[3], ceil_mode)


def _max_pool_2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    sizes = (_both(kernel_size), _both(stride or kernel_size), _both(padding), _both(dilation))
    padded, around = _with_copies(x, *sizes, ceil_mode)
    if return_indices or padded is x:
        raise NotImplementedError
    return F.max_pool2d(padded, *sizes[:2], around, sizes[3])


def _with_copies(x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> tuple[Tensor, Any]:
    """Padding for a maximum, as copies of the rim where it is not the runtime's "same": `(padded, padding that is left)`.

    Every window over the padding reads the rim as well, so its copies change no maximum; -inf has no integer.
    """
    same = True
    for n, k, s, p in zip(x.shape[2:], kernel, stride, padding):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        same = same and p == total // 2 == total - total // 2
    if same or ceil or not any(padding) or any(d != 1 for d in dilation):
        return x, padding
    for step in range(max(padding)):  # converters know copies of one row
        rows, columns = (int(p > step) for p in padding)
        x = F.pad(x, (columns, columns, rows, rows), mode="replicate")
    return x, (0, 0)


def _avg_pool(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    sizes = (_pair(kernel_size, 1), _pair(stride or kernel_size, 1), _pair(padding, 0))
    try:
        return _avg_pool_2d(x, *sizes, ceil_mode, count_include_pad)
    except NotImplementedError:
        return F.avg_pool2d(x, *sizes, ceil_mode, count_include_pad)


def _avg_pool_2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Zeros as an operation of their own, and shares of windows at the rim: the converter knows no other padding of means."""
    kernels, steps, sides = map(_both, (kernel_size, stride or kernel_size, padding))
    counts = [windows(*sizes, ceil_mode) for sizes in zip(x.shape[2:], kernels, steps, sides)]
    reach = [(count - 1) * step + kernel for count, step, kernel in zip(counts, steps, kernels)]
    ends = [max(end - n - side, side) for end, n, side in zip(reach, x.shape[2:], sides)]
    if divisor_override is not None:
        raise NotImplementedError
    if not any((*sides, *ends)):
        return F.avg_pool2d(x, kernels, steps)
    pooled = F.avg_pool2d(pad_image(x, [sides[1], ends[1], sides[0], ends[0]]), kernels, steps)
    # Of every window: what it divides by, which is never more than reaches into torch's own padding.
    beside = sides if count_include_pad else (0, 0)
    shares = [_inside(*sizes) for sizes in zip(x.shape[2:], kernels, steps, sides, beside, counts)]
    if all(share == 1 for side in shares for share in side):
        return pooled
    inside = torch.tensor([[row * column for column in shares[1]] for row in shares[0]])
    return (pooled.permute(0, 2, 3, 1) * (1 / inside).unsqueeze(2)).permute(0, 3, 1, 2)


def _conv_2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Of even kernels: see `_conv`."""
    if padding != "same" or all(size % 2 for size in weight.shape[2:]):
        raise NotImplementedError
    totals = [(size - 1) * step for size, step in zip(weight.shape[2:], _both(dilation))]
    sides = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    return F.conv2d(pad_image(x, sides), weight, bias, stride, 0, dilation, groups)


def _both(value: Any) -> tuple[int, int]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)  # type: ignore[return-value]


def _inside(size: int, kernel: int, stride: int, padding: int, beside: int, count: int) -> list[float]:
    """Of every window its share that is in the image and `beside` it."""
    starts = [i * stride - padding for i in range(count)]
    return [(min(start + kernel, size + beside) - max(start, -beside)) / kernel for start in starts]


def _adaptive_max_pool(x: Tensor, output_size: Any, return_indices: bool = False) -> Tensor:
    """Where the windows are equal: the converter has none with windows of several sizes."""
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * 2
    space = x.shape[2:]
    if return_indices or any(n % (made or n) for n, made in zip(space, sizes)):
        raise NotImplementedError
    return F.max_pool2d(x, [n // (made or n) for n, made in zip(space, sizes)])


def pad_image(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Of `(B, C, H, W)`. Channels last, as kernels have them: the converter leaves a first pad in torch's order."""
    if len(pad) > 4 or mode != "constant":
        return F.pad(x, pad, mode, value)
    last = x.permute(0, 2, 3, 1)
    if min(pad) < 0 < max(pad):  # one after the other: what does both at once is left in torch's order, too
        left, right, top, bottom = (-min(side, 0) for side in [*pad, *[0] * (4 - len(pad))])
        last = last[:, top : last.shape[1] - bottom, left : last.shape[2] - right]
        pad = [max(side, 0) for side in pad]
    return F.pad(last, [0, 0, *pad], mode, value).permute(0, 3, 1, 2)


def _pad_lifted(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    if len(pad) != 2 or mode != "constant":
        raise NotImplementedError
    return pad_image(x, pad, mode, value)


LAYERS: dict[Any, Rule] = {
    torch.conv1d: _conv,
    torch.conv_transpose1d: _conv_transposed,
    F.max_pool1d: _max_pool,
    torch.max_pool1d: _max_pool,
    torch.avg_pool1d: _avg_pool,
    F.avg_pool1d: _avg_pool,
    F.adaptive_avg_pool1d: lambda x, output_size: F.adaptive_avg_pool2d(x, _pair(output_size, 1)),
    torch.adaptive_avg_pool1d: lambda x, output_size: F.adaptive_avg_pool2d(x, _pair(output_size, 1)),
    F.adaptive_max_pool1d: lambda x, size, return_indices=False: _adaptive_max_pool(x, _pair(size, 1), return_indices),
    F.pad: _pad_lifted,
}
IMAGES: dict[Any, Rule] = {
    F.avg_pool2d: _avg_pool_2d,
    F.adaptive_max_pool2d: _adaptive_max_pool,
    F.max_pool2d: _max_pool_2d,
    torch.max_pool2d: _max_pool_2d,
    torch.conv2d: _conv_2d,
    torch.conv_transpose2d: _conv_transposed_2d,
}
