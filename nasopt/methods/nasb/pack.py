"""A network of binary and piecewise layers with packed weights and activations: bits, for inference on the CPU."""

from __future__ import annotations

import copy

from torch import nn

from nasopt.checked import checked
from nasopt.errors import ConfigError
from nasopt.graph.edit import merge_into_readers, put_module, readers_of
from nasopt.graph.groups import Traced
from nasopt.nn import BinaryActivation, BinaryConv2d, PAActivation, PAConv2d
from nasopt.nn.packed import PackedBinaryConv2d
from nasopt.nn.packed_piecewise import PackedPAConv2d


@checked
def pack(model: nn.Module) -> nn.Module:
    """A copy of a network whose binary and piecewise convolutions compute on bits, in eval mode; `model` stays as it is.

    Outputs are those of the float layers to rounding. Convolutions that no kernel fits (groups), or whose input is not
    that of a `BinaryActivation` or `PAActivation`, stay as they are.

    Raises:
        ConfigError: there is no such convolution to pack.
    """
    packed = copy.deepcopy(model).eval().cpu().float()
    signed = _dense(packed, BinaryActivation, BinaryConv2d)
    stepped = _dense(packed, PAActivation, PAConv2d)
    if not isinstance(packed, Traced) or not (signed or stepped):
        raise ConfigError(
            f"pack: {type(model).__name__} is no traced network with a BinaryConv2d of groups=1 behind a "
            "BinaryActivation, or a PAConv2d behind a PAActivation. It takes what arch_export() or binarize(model) returned"
        )
    for name in signed:
        conv = packed.get_submodule(name)
        assert isinstance(conv, BinaryConv2d)
        put_module(packed, name, PackedBinaryConv2d(conv))
    for name in stepped:
        conv, before = packed.get_submodule(name), _one_before(packed, name)
        if before is not None:
            assert isinstance(conv, PAConv2d)
            put_module(packed, name, PackedPAConv2d(conv, before))
    merge_into_readers(packed, BinaryActivation, PackedBinaryConv2d)
    return packed


def _dense(model: nn.Module, activation: type[nn.Module], layer: type[nn.Module]) -> list[str]:
    found = readers_of(model, activation, layer) if isinstance(model, Traced) else []
    return [name for name in found if model.get_submodule(name).groups == 1]


def _one_before(model: Traced, name: str) -> PAActivation | None:
    """The activation that a layer reads at every call; None where there are several."""
    calls = [node for node in model.graph.nodes if node.op == "call_module" and node.target == name]
    (first, *others) = {str(node.all_input_nodes[0].target) for node in calls}
    before = model.get_submodule(first)
    return before if not others and isinstance(before, PAActivation) else None
