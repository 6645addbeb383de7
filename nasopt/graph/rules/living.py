"""Means, maxima and the like over living channels: functions over a dimension of which some positions are masked.

All take the mask first, which broadcasts to the input and varies along one of the dimensions that are reduced; then what the
function of torch takes. With a mask of ones they are that function, with zeros that of a tensor without these positions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def _dims(x: Tensor, dim: Any) -> tuple[int, ...]:
    if dim is None or dim == ():
        return tuple(range(x.dim()))
    return tuple(d % x.dim() for d in (dim if isinstance(dim, Sequence) else [dim]))


def _axis_is_dim(run: Callable[..., Any]) -> Callable[..., Any]:
    """Torch takes NumPy's names of arguments, too."""

    @functools.wraps(run)
    def named(mask: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        names = {"axis": "dim", "keepdims": "keepdim", "a": "input"}
        return run(mask.to(input.dtype), input, *args, **{names.get(key, key): value for key, value in kwargs.items()})

    return named


def _count(mask: Tensor, x: Tensor, dim: Any) -> Tensor:
    """Living positions that are reduced to one, a scalar."""
    return mask.sum() * (math.prod(x.shape[d] for d in _dims(x, dim)) / mask.numel())


def _filled(mask: Tensor, x: Tensor, with_largest: bool) -> Tensor:
    """`x` with its smallest (or largest) number along the channels where these are dead: it wins against no living one."""
    along = x.dim() - mask.dim()
    other = (x.amax if with_largest else x.amin)(along, keepdim=True).detach()
    return x * mask + other * (1 - mask)


@_axis_is_dim
def total(mask: Tensor, input: Tensor, dim: Any = None, keepdim: bool = False, **more: Any) -> Tensor:
    return (input * mask).sum(_dims(input, dim), keepdim, **more)


@_axis_is_dim
def mean(mask: Tensor, input: Tensor, dim: Any = None, keepdim: bool = False, **more: Any) -> Tensor:
    return (input * mask).sum(_dims(input, dim), keepdim, **more) / _count(mask, input, dim)


@_axis_is_dim
def product(mask: Tensor, input: Tensor, *args: Any, **more: Any) -> Tensor:
    return (input * mask + (1 - mask)).prod(*args, **more)


@_axis_is_dim
def variance(
    mask: Tensor, input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, correction: Any = None
) -> Tensor:
    dim, unbiased = (None, dim) if isinstance(dim, bool) else (dim, unbiased)
    dims, count = _dims(input, dim), _count(mask, input, dim)
    apart = input - (input * mask).sum(dims, keepdim=True) / count
    freedom = count - (int(unbiased) if correction is None else correction)
    return (apart.square() * mask).sum(dims, keepdim) / freedom


@_axis_is_dim
def deviation(mask: Tensor, input: Tensor, *args: Any, **more: Any) -> Tensor:
    return variance(mask, input, *args, **more).sqrt()  # type: ignore[no-any-return]


@_axis_is_dim
def largest(mask: Tensor, input: Tensor, *args: Any, **more: Any) -> Any:
    return _filled(mask, input, False).max(*args, **more)


@_axis_is_dim
def smallest(mask: Tensor, input: Tensor, *args: Any, **more: Any) -> Any:
    return _filled(mask, input, True).min(*args, **more)


@_axis_is_dim
def largest_value(mask: Tensor, input: Tensor, *args: Any, **more: Any) -> Tensor:
    return _filled(mask, input, False).amax(*args, **more)


@_axis_is_dim
def smallest_value(mask: Tensor, input: Tensor, *args: Any, **more: Any) -> Tensor:
    return _filled(mask, input, True).amin(*args, **more)


@_axis_is_dim
def norm(mask: Tensor, input: Tensor, *args: Any, **more: Any) -> Tensor:
    return torch.norm(input * mask, *args, **more)


@_axis_is_dim
def vector_norm(mask: Tensor, input: Tensor, *args: Any, **more: Any) -> Tensor:
    return torch.linalg.vector_norm(input * mask, *args, **more)


@_axis_is_dim
def log_of_sum(mask: Tensor, input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    x, dims = _filled(mask, input, False), _dims(input, dim)
    top = x.amax(dims, keepdim=True).detach()
    result = ((x - top).exp() * mask).sum(dims, keepdim=True).log() + top
    return result if keepdim else result.squeeze(dims)


@_axis_is_dim
def softmax(mask: Tensor, input: Tensor, dim: Any = None, *_: Any, dtype: Any = None, **more: Any) -> Tensor:
    x = _filled(mask, input if dtype is None else input.to(dtype), False)
    share = (x - x.amax(dim, keepdim=True).detach()).exp() * mask
    return share / share.sum(dim, keepdim=True)


@_axis_is_dim
def log_softmax(mask: Tensor, input: Tensor, dim: Any = None, *_: Any, dtype: Any = None, **more: Any) -> Tensor:
    x = _filled(mask, input if dtype is None else input.to(dtype), False)
    return x - log_of_sum(mask, x, dim, keepdim=True)  # type: ignore[no-any-return]


@_axis_is_dim
def normalised(mask: Tensor, input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, **more: Any) -> Tensor:
    return input / torch.linalg.vector_norm(input * mask, p, dim, keepdim=True).clamp_min(eps)


@_axis_is_dim
def running_total(mask: Tensor, input: Tensor, *args: Any, **more: Any) -> Tensor:
    return (input * mask).cumsum(*args, **more)


# Results have no channels any more.
REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": total,
    "mean": mean,
    "prod": product,
    "var": variance,
    "std": deviation,
    "max": largest,
    "min": smallest,
    "amax": largest_value,
    "amin": smallest_value,
    "norm": norm,
    "logsumexp": log_of_sum,
}
# Results have those of their input.
MIXING: dict[str, Callable[..., Any]] = {
    "softmax": softmax,
    "log_softmax": log_softmax,
    "normalize": normalised,
    "cumsum": running_total,
}
VECTOR_NORMS: dict[Any, Callable[..., Any]] = {torch.linalg.vector_norm: vector_norm}
