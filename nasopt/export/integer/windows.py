"""Windows of poolings: which elements each output reads, and by what their sum is divided; asked of torch's own operations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MAX = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode")
_AVG = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


@dataclass(frozen=True)
class Windows:
    """Ranges along some dimensions of one sample.

    Attributes:
        function: `"max"` or `"sum"`.
        dims: dimensions, ascending.
        ranges: per dimension the first element of every window, and the one behind its last.
        dilation: every how many elements, per dimension.
        divisor: of sums: what the sum is divided by, broadcasts over the pooled dimensions; 1 of maxima.
    """

    function: str
    dims: tuple[int, ...]
    ranges: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    dilation: tuple[int, ...]
    divisor: Tensor


def windows_of(
    layer: nn.Module | None, word: str, args: Sequence[Any], kwargs: Mapping[str, Any], x: Tensor, run: Any
) -> Windows | None:
    """Windows of a call; None where it pools nothing.

    Args:
        layer: that is called, or None.
        word: name of the function, or of the layer's class.
        args, kwargs: of the call, with plain values.
        x: its input, one sample.
        run: runs the call on another input.
    """
    word = word.lower().replace("_", "")
    if word in ("mean", "sum", "amax", "max"):
        return _reduction(word, args, kwargs, x)
    if "pool" not in word:
        return None
    function, spatial = ("max" if "max" in word else "sum"), int(word[-2])
    dims = tuple(range(x.dim() - spatial, x.dim()))
    given: dict[str, Any]
    if "adaptive" in word:
        size = (
            layer.output_size
            if layer is not None
            else dict(zip(("input", "output_size"), args), **kwargs)["output_size"]
        )
        sizes = _each(size, spatial)
        ranges = []
        for dim, out in zip(dims, sizes):
            n = x.shape[dim]
            out = n if out is None else out
            ranges.append((tuple(i * n // out for i in range(out)), tuple(-(-(i + 1) * n // out) for i in range(out))))
        dilation: tuple[int, ...] = (1,) * spatial
    else:
        names = _MAX if function == "max" else _AVG
        if layer is not None:
            given = {name: getattr(layer, name) for name in names[1:] if hasattr(layer, name)}
        else:
            given = {**dict(zip(names, args)), **kwargs}
        dilation = _each(given.get("dilation", 1), spatial)
        kernel, padding = _each(given["kernel_size"], spatial), _each(given.get("padding", 0), spatial)
        stride = _each(given.get("stride") or given["kernel_size"], spatial)
        ranges = []
        for i, dim in enumerate(dims):
            at = torch.arange(x.shape[dim], dtype=torch.float64).reshape(1, 1, -1)
            options: Any = (kernel[i], stride[i], padding[i], dilation[i], bool(given.get("ceil_mode", False)))
            last, first = F.max_pool1d(at, *options), -F.max_pool1d(-at, *options)
            ranges.append((tuple(first.flatten().int().tolist()), tuple((last.flatten().int() + 1).tolist())))
    divisor = torch.ones(())
    if function == "sum":
        counts: Any = torch.ones((), dtype=torch.float64)
        for starts, ends in ranges:
            counts = counts[..., None] * (torch.tensor(ends) - torch.tensor(starts))
        divisor = torch.round(counts / run(torch.ones_like(x)).reshape(-1, *counts.shape)[0])
        divisor = divisor.flatten()[0] if bool((divisor == divisor.flatten()[0]).all()) else divisor
    return Windows(function, dims, tuple(ranges), dilation, divisor)


def _reduction(word: str, args: Sequence[Any], kwargs: Mapping[str, Any], x: Tensor) -> Windows:
    dim: Any = kwargs.get("dim", args[1] if len(args) > 1 else None)
    given = tuple(range(x.dim())) if dim is None or dim == () else (dim,) if isinstance(dim, int) else tuple(dim)
    dims = tuple(sorted(d % x.dim() for d in given))
    ranges = tuple(((0,), (x.shape[d],)) for d in dims)
    count = math.prod(x.shape[d] for d in dims) if word == "mean" else 1
    return Windows("max" if "max" in word else "sum", dims, ranges, (1,) * len(dims), torch.tensor(float(count)))


def _each(size: Any, dims: int) -> tuple[Any, ...]:
    values = tuple(size) if isinstance(size, (tuple, list)) else (size,)
    return values * dims if len(values) == 1 else values
