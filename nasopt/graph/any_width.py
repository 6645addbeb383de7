"""Whether a part of a graph takes activations of any number of channels, tried on narrower fake tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses import fake_tensor as fake
from torch.utils import _pytree as pytree

from nasopt.nn import PathByMode


def takes_any_width(unit: PathByMode, order: Sequence[fx.Node]) -> bool:
    """Whether the train path also runs where the passed tensors are narrower, and keeps their shapes."""
    values = [node.meta["value"] for node in order]
    kept = [values[i] for i in unit.passes]
    if unit.train_path is None:
        return True
    if any(not isinstance(value, Tensor) for value in kept):
        return False
    for dim in range(1, max(value.dim() for value in kept)):
        sizes = {value.shape[dim] for value in kept if value.dim() > dim}
        try:
            with torch.no_grad(), _mode_of(kept):
                narrower = [_narrow(value, dim, sizes) for value in values]
                made = unit.train_path(*narrower)
        except Exception:
            return False
        if [tuple(x.shape) for x in made] != [tuple(narrower[i].shape) for i in unit.passes]:
            return False
    return True


def _mode_of(values: Sequence[Tensor]) -> Any:
    return next((v.fake_mode for v in values if isinstance(v, fake.FakeTensor)), fake.FakeTensorMode())


def _narrow(value: Any, dim: int, sizes: set[int]) -> Any:
    def narrow(x: Tensor) -> Tensor:
        fits = x.dim() > dim and x.shape[dim] in sizes and x.shape[dim] > 1
        return x.narrow(dim, 0, x.shape[dim] - 1) if fits else x

    return pytree.tree_map_only(Tensor, narrow, value)
