"""Reasons why calls compute in floats in a network of few bits, for explanations and refusals."""

from __future__ import annotations

from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from nasopt.graph.activation_nodes import activations_in, holds_tensors, values_read
from nasopt.graph.functional_layers import FUNCTIONS
from nasopt.graph.integer_roles import ARITHMETIC, JOINS, is_constant, key_of, quantised_class, role_of
from nasopt.graph.registry import alteration
from nasopt.nn.quantise import Quantise
from nasopt.nn.quantised import QuantisedWeight


def why_floats(module: fx.GraphModule, node: fx.Node, activations: set[fx.Node]) -> str:
    """Why a call has no integer form, and which call like it has one where that is near."""
    layer: Any = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    name = type(layer).__name__ if layer is not None else str(getattr(node.target, "__name__", node.target))
    if layer is not None and alteration(layer):
        return alteration(layer)
    if _is_plain(layer):
        return "32 bits were asked for"
    if node.target in FUNCTIONS:
        return "its weight, or its bias, is used elsewhere, too, or made of the input"
    cure, inputs = _cure(layer, name, node), activations_in(node, activations)
    if not inputs and values_read(node):
        return f"{name} makes floats of whole numbers: let forward take these floats"
    others = [one for one in values_read(node) if one not in inputs and holds_tensors(one)]
    if not cure and inputs and others and all(is_constant(module, one) for one in others):
        key = key_of(module, node)
        cure = " with constants" if key in JOINS else cure
        cure = ": its constants are neither equal nor one per channel (dimension 1)" if key in ARITHMETIC else cure
    return f"{name} has no integer form{cure}"


def float_reader(module: fx.GraphModule, node: fx.Node, activations: set[fx.Node]) -> fx.Node | None:
    """The next call behind a value that computes in floats, so that the value is not rounded; None where there is none."""
    behind, seen = [node], {node}
    while behind:
        for user in behind.pop(0).users:
            layer = module.get_submodule(str(user.target)) if user.op == "call_module" else None
            if user not in activations or isinstance(layer, (Quantise, QuantisedWeight)):
                continue
            if _is_plain(layer) or role_of(module, user, activations) == "float":
                return user
            if user not in seen:
                seen.add(user)
                behind.append(user)
    return None


def _is_plain(layer: nn.Module | None) -> bool:
    """Whether a layer has a quantised form and is not of it."""
    return layer is not None and not isinstance(layer, QuantisedWeight) and quantised_class(layer) is not None


def _cure(layer: Any, name: str, node: fx.Node) -> str:
    mode = layer.mode if isinstance(layer, nn.Upsample) else node.kwargs.get("mode")
    if isinstance(layer, nn.Upsample) or node.target in (F.interpolate, F.upsample):
        return f" in mode {mode!r}: 'nearest' has one"
    if name == "pad":
        return " where it fills in other numbers than 0"
    if isinstance(layer, nn.modules.batchnorm._BatchNorm) or name == "batch_norm":
        return ": a BatchNorm layer with running statistics has one"
    if isinstance(layer, (nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)):
        return ", since its statistics are those of the sample: a batch norm has one"
    return ""
