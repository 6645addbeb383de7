"""Values and paths of one mode: what is another thing in train mode passes channels on where eval mode does nothing."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nasopt.graph.call import Call
from nasopt.graph.registry import layer_rule
from nasopt.nn import PathByMode


@layer_rule(PathByMode, searchable="passes channels on where eval mode does nothing", memory="view")
def path_by_mode(call: Call) -> Any:
    unit: Any = call.module
    if not unit.keeps_channels or not unit.passes:
        if unit.evaluation_path is not None:
            call.unpriced()
        return call.fixed_unit("train mode takes another path")
    for i, labels in enumerate(call.args):
        if i not in unit.passes and isinstance(labels, Tensor):
            call.fix(labels, "train mode takes another path")
    results = tuple(call.args[i] for i in unit.passes)
    return results[0] if len(results) == 1 else results
