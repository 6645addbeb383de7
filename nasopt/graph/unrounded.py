"""Unrounded values: what a quantised network does not round, and an integer program keeps in accumulators or leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from nasopt.graph.facts import Facts
from nasopt.graph.integer_roles import is_addition, role_of
from nasopt.nn.quantised import QuantisedWeight


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
        role = "writes" if isinstance(layer, QuantisedWeight) else role_of(module, node, facts.activations)
        adds = is_addition(module, node)
        inputs = node.all_input_nodes
        if role == "table" or (role == "writes" and adds) or (role == "extends" and inputs[0] in behind):
            behind.add(node)
        elif role == "writes" or (role != "float" and any(one in sums for one in inputs)):
            sums.add(node)
    return sums, behind
