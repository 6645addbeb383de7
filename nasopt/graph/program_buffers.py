"""Buffers of integer programs: sums that stay in accumulators, what is computed behind a program, padding without a buffer."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from nasopt.graph.facts import Facts
from nasopt.graph.integer_roles import is_addition, role_of
from nasopt.graph.kernels import padding_of
from nasopt.graph.windows import Around, zeros_around
from nasopt.nn.quantised import QuantisedWeight
from nasopt.nn.quantised_norm import QuantBatchNorm


def unrounded(module: fx.GraphModule, facts: Facts, widths: Mapping[fx.Node, Any]) -> tuple[set[fx.Node], set[fx.Node]]:
    """Nodes whose sums stay in accumulators; and those that are computed from the integers of the outputs, behind a program.

    Args:
        widths: from `widths_of_values`; where there are none nothing is quantised, and nothing is found.
    """
    sums: set[fx.Node] = set()
    behind: set[fx.Node] = set()
    for node in module.graph.nodes if widths else ():
        if node not in facts.activations or node in widths or not node.op.startswith("call"):
            continue
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        is_sum = isinstance(layer, (QuantisedWeight, QuantBatchNorm))
        role = "writes" if is_sum else role_of(module, node, facts.activations)
        adds = is_addition(module, node)
        inputs = node.all_input_nodes
        if role == "table" or (role == "writes" and adds) or (role == "extends" and inputs[0] in behind):
            behind.add(node)
        elif role == "writes" or (role != "float" and any(one in sums for one in inputs)):
            sums.add(node)
    return sums, behind


def is_taken_over(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether no buffer holds what a call pads with zeros, or cuts: convolutions, which alone read it, do that themselves."""
    around = _around(module, node)
    return around is not None and bool(node.users) and all(_takes(module, user, around) for user in node.users)


def _takes(module: fx.GraphModule, user: fx.Node, around: Around) -> bool:
    layer: Any = module.get_submodule(str(user.target)) if user.op == "call_module" else None
    if not isinstance(layer, nn.modules.conv._ConvNd):
        return is_taken_over(module, user)
    own = padding_of(layer) if not layer.transposed else None
    return own is not None and all(min(more) >= 0 or not any(sides) for sides, more in zip(own, around))


def _around(module: fx.GraphModule, node: fx.Node) -> Around | None:
    """Zeros before and after each dimension of space; negative: elements that are cut."""
    if node.target is not operator.getitem:
        return zeros_around(module.get_submodule(str(node.target)) if node.op == "call_module" else None, node)
    x: Any = node.all_input_nodes[0].meta["value"]
    index: Any = node.args[1]
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = (*index[:at], *[slice(None)] * (x.dim() + 1 - len(index)), *index[at + 1 :])
    index = (*index, *[slice(None)] * (x.dim() - len(index)))
    bounds = [(one.start, one.stop, one.step) if isinstance(one, slice) else (one,) for one in index]
    if x.dim() < 3 or any(not isinstance(bound, (int, type(None))) for one in bounds for bound in one):
        return None
    if not all(isinstance(one, slice) for one in index):
        return None
    cuts = [(one.indices(size), size) for one, size in zip(index, x.shape)]
    found = [(-first, end - size) for (first, end, _), size in cuts]
    return tuple(found[2:]) if all(step == 1 for (_, _, step), _ in cuts) and not any(map(any, found[:2])) else None
