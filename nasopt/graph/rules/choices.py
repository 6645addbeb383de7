"""Markers around the branches of a layer: channels pass into every branch, and meet after them."""

from __future__ import annotations

from typing import Any

from nasopt.graph.branches.markers import BranchInput, Choice
from nasopt.graph.call import Call
from nasopt.graph.facts import no_labels
from nasopt.graph.registry import layer_rule
from nasopt.graph.rules.elementwise import meet
from nasopt.nn import Zero


@layer_rule(BranchInput, memory="view")
def branch_input(call: Call) -> Any:
    return call.args[0] if len(call.args) == 1 else call.args


@layer_rule(Choice, searchable="one of its branches")
def choice(call: Call) -> Any:
    apart = call.follows(call.tensors)
    return apart if apart is not None else meet(call, call.tensors, call.value.shape)


@layer_rule(Zero, searchable="fixes its channels")
def zero(call: Call) -> Any:
    return no_labels(call.value)
