"""Along one dimension: positions that a tensor chooses, differences of neighbours, shifts; free where nothing varies along it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nasopt.graph.call import Call
from nasopt.graph.registry import function_rule
from nasopt.graph.rules.elementwise import meet, named


@function_rule(
    *named("gather take_along_dim scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_", torch)
)
def gather(call: Call) -> Any:
    """Positions along one dimension come from a tensor: free where nothing varies along it, and all else is alike."""
    x, dim, at, source = (call.argument(i, name) for i, name in enumerate(("input", "dim", "index", "src")))
    if isinstance(dim, Tensor):
        dim, at = call.argument(2, "dim"), dim  # as `take_along_dim` has them
    parts = [one for one in (x, at, source) if isinstance(one, Tensor) and one.dim()]
    return _alike_along(call, parts, dim, "channels are chosen by a tensor")


def _alike_along(call: Call, parts: list[Tensor], dim: Any, reason: str) -> Any:
    """Labels of what rearranges or adds along one dimension, where nothing may vary."""
    if not isinstance(dim, int) or any(call.labels.varies(one, dim) for one in parts if one.numel()):
        return call.fixed_unit(reason)
    thin = [one.narrow(dim, 0, 1) for one in parts]
    if any(one.shape != thin[0].shape for one in thin):
        return call.fixed_unit(reason)
    return meet(call, thin, thin[0].shape).expand(call.value.shape)


@function_rule(*named("index_add index_add_ index_copy index_copy_ index_fill index_fill_", torch))
def indexed_write(call: Call) -> Any:
    """Positions along one dimension are written, those of a list of numbers: as messages arrive at the nodes of a graph."""
    parts = [call.argument(0, "input"), call.argument(3, "source" if "fill" not in str(call.node.target) else "value")]
    parts = [one for one in parts if isinstance(one, Tensor) and one.dim()]
    return _alike_along(call, parts, call.argument(1, "dim"), "channels are chosen by a tensor")


@function_rule(torch.diff, "diff")
def difference(call: Call) -> Any:
    """Of neighbours along one dimension, with what is put before and behind."""
    parts = [call.argument(0, "input"), call.argument(3, "prepend"), call.argument(4, "append")]
    parts = [one for one in parts if isinstance(one, Tensor)]
    return _alike_along(call, parts, call.argument(2, "dim", -1), "neighbouring channels are subtracted")


@function_rule(*named("index_select roll repeat_interleave", torch))
def along_one_dimension(call: Call) -> Any:
    """Free along a dimension without channels; a dimension with channels is fixed."""
    x = call.argument(0, "input")
    name = getattr(call.node.target, "__name__", call.node.target)
    dims = call.argument(1 if name == "index_select" else 2, "dims" if name == "roll" else "dim")
    for dim in range(x.dim()) if dims is None else [dims] if isinstance(dims, int) else dims:
        if call.labels.varies(x, dim):
            return call.fixed_unit("its channels are rearranged one by one")
        x = x.narrow(dim, 0, 1).expand([-1 if d != dim % x.dim() else call.value.shape[dim] for d in range(x.dim())])
    return x.reshape(call.value.shape) if dims is None else x
