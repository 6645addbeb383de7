"""Functions that nobody can look into, and what they do element by element: surrogate gradients, straight-through estimators.

Such a function is run on random numbers. Where it commutes with any choice and order of elements, forward and backward, an
element of its result depends on its own alone, so channels may go before it as well as behind it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from nasopt.graph.tracing_mode import without_mode
from nasopt.nn.mode import FunctionUnit

# Elements that are tried, of every size of numbers.
_TRIED, _SCALES = 60, (0.1, 1.0, 30.0)
_KNOWN: dict[tuple[Any, ...], bool] = {}


def is_elementwise(unit: nn.Module | None, node: fx.Node) -> bool:
    """Whether a call of a `FunctionUnit` computes every element of its one result from those at the same position."""
    if not isinstance(unit, FunctionUnit):
        return False
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda one: one.meta["value"])
    values, spec = pytree.tree_flatten((args, kwargs))
    tensors = [value for value in values if isinstance(value, Tensor)]
    made = node.meta["value"]
    is_plain = isinstance(made, Tensor) and bool(tensors) and all(isinstance(value, _PLAIN) for value in values)
    if not is_plain or not all(one.is_floating_point() for one in (made, *tensors)):
        return False
    if torch.broadcast_shapes(*(one.shape for one in tensors)) != made.shape:
        return False
    parts = [("tensor", v.numel() == 1) if isinstance(v, Tensor) else v for v in values]
    key = (unit.function, tuple(map(str, parts)), repr(spec))  # a spec has no hash before torch 2.6
    if key not in _KNOWN:
        _KNOWN[key] = _commutes(unit, values, spec)
    return _KNOWN[key]


_PLAIN = (Tensor, int, float, bool, str, type(None))


def _commutes(unit: FunctionUnit, values: list[Any], spec: Any) -> bool:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(_TRIED, generator=generator)

    def run(given: list[Any], chosen: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        leaves = [one.clone().requires_grad_() if isinstance(one, Tensor) else one for one in given]
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        result = unit(*args, **kwargs)
        wide = [one for one in leaves if isinstance(one, Tensor) and one.numel() > 1]
        if not result.requires_grad:
            return result, [None]
        return result, list(torch.autograd.grad((result * weights[chosen]).sum(), wide, allow_unused=True))

    try:
        with without_mode(), torch.enable_grad(), torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            for scale in _SCALES:
                given = [_random_like(one, scale, generator) for one in values]
                result, slopes = run(given, torch.arange(_TRIED))
                if (result.shape != (_TRIED,) and result.numel() != 1) or not bool(result.isfinite().any()):
                    return False
                for chosen in (torch.randperm(_TRIED, generator=generator), torch.arange(7)):
                    part = [one[chosen] if isinstance(one, Tensor) and one.numel() > 1 else one for one in given]
                    other, other_slopes = run(part, chosen)
                    pairs = [(result, other), *zip(slopes, other_slopes)]
                    if not all(_is_chosen(whole, found, chosen) for whole, found in pairs):
                        return False
    except Exception:
        return False
    return True


def _random_like(value: Any, scale: float, generator: torch.Generator) -> Any:
    """One number for one number, else as many as are tried, in a row."""
    if not isinstance(value, Tensor):
        return value
    shape = value.shape if value.numel() == 1 else torch.Size([_TRIED])
    return scale * torch.randn(shape, generator=generator)


def _is_chosen(whole: Tensor | None, part: Tensor | None, chosen: Tensor) -> bool:
    if whole is None or part is None:
        return whole is part
    wanted = whole[chosen] if whole.shape == (_TRIED,) else whole
    return wanted.shape == part.shape and torch.allclose(wanted, part, rtol=1e-5, atol=1e-6, equal_nan=True)
