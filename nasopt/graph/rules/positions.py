"""Functions whose result depends on positions: triangles of matrices, classes as positions, sampling grids; outer products."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from nasopt.graph.call import Call
from nasopt.graph.registry import function_rule
from nasopt.graph.rules.elementwise import meet, named

_BY_POSITION = "its content depends on the position"


@function_rule(*named("tril triu tril_ triu_", torch), memory="in_place")
def triangle(call: Call) -> Any:
    x = call.argument(0, "input")
    if any(dim >= x.dim() - 2 for dim in call.labels.varying(x)):
        return call.fixed_unit(_BY_POSITION)
    return x


@function_rule(torch.tril_indices, torch.triu_indices, F.one_hot)
def from_positions(call: Call) -> Any:
    return call.fixed_unit(_BY_POSITION)


@function_rule(*named("outer ger", torch))
def outer(call: Call) -> Any:
    x, y = call.argument(0, "input"), call.argument(1, "vec2")
    return meet(call, [x[:, None], y[None, :]], call.value.shape)


@function_rule(F.affine_grid, torch.affine_grid_generator)
def grid(call: Call) -> Any:
    transforms = call.argument(0, "theta")
    places = call.value[..., 0].numel() // call.value.shape[0]
    call.cost("matmul", transforms.shape[-1], transforms.shape[-2], positions=places)
    return call.fixed_unit(_BY_POSITION)


@function_rule("renorm", torch.renorm)
def renorm(call: Call) -> Any:
    return call.fixed_unit("its size depends on all elements of a slice")
