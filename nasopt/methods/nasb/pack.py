"""A found network with packed weights and activations: one bit each, for inference on the CPU."""

from __future__ import annotations

import copy

from torch import nn

from nasopt.errors import ConfigError
from nasopt.graph.edit import merge_into_readers, put_module, readers_of
from nasopt.graph.groups import Traced
from nasopt.nn import BinaryActivation, BinaryConv2d
from nasopt.nn.packed import PackedBinaryConv2d


def pack(model: nn.Module) -> nn.Module:
    """A copy of a binary network whose binary convolutions compute on bits, in eval mode; `model` stays as it is.

    Outputs are those of the float layers to rounding. Binary convolutions that no kernel fits (groups) or whose input is not
    signed stay as they are.

    Raises:
        ConfigError: there is no binary convolution to pack.
    """
    packed = copy.deepcopy(model).eval().cpu().float()
    signed = readers_of(packed, BinaryActivation, BinaryConv2d) if isinstance(packed, Traced) else []
    signed = [name for name in signed if packed.get_submodule(name).groups == 1]
    if not isinstance(packed, Traced) or not signed:
        raise ConfigError(
            f"pack: {type(model).__name__} is no traced network with a BinaryConv2d of groups=1 behind a "
            "BinaryActivation. It takes what "
            "NASB.arch_export() or binarize(model) returned"
        )
    for name in signed:
        conv = packed.get_submodule(name)
        assert isinstance(conv, BinaryConv2d)
        put_module(packed, name, PackedBinaryConv2d(conv))
    merge_into_readers(packed, BinaryActivation, PackedBinaryConv2d)
    return packed
