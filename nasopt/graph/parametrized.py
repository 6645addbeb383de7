"""Layers of torch whose weights are computed at every call: parametrizations, weight and spectral norm, masks of pruning.

They are traced through, so that what they compute of their parameters is part of the graph, as if it stood in `forward`.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import parametrize

_COMPUTED = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase)
_HOME = "torch.nn.utils."
# What they change in train mode is no path of a graph; such a layer stays whole.
_WHOLE = ("SpectralNorm", "_SpectralNorm")


def computes_weights(module: nn.Module) -> bool:
    """Whether a layer of a kind that is known as a function computes its weights in ways of torch's, and does nothing else."""
    if not isinstance(module, _COMPUTED) or module._forward_hooks or "forward" in vars(module):
        return False
    hooks = module._forward_pre_hooks.values()
    kinds = [type(hook) for hook in hooks]
    if not all(kind.__module__.startswith(_HOME) and kind.__name__ not in _WHOLE for kind in kinds):
        return False
    if not parametrize.is_parametrized(module):
        return bool(hooks)
    lists: Any = module.parametrizations
    return not any(type(part).__name__ in _WHOLE for parts in lists.values() for part in parts)


def is_parametrization(module: nn.Module) -> bool:
    """Whether a module is a part of such a computation: torch's own, or the list of them."""
    return type(module).__module__.startswith(_HOME) and not parametrize.is_parametrized(module)


def has_own_forward(module: nn.Module) -> bool:
    """Whether a layer of such a kind has another `forward` on the object, and nothing else that is its own."""
    hooks = module._forward_hooks or module._forward_pre_hooks or parametrize.is_parametrized(module)
    return isinstance(module, _COMPUTED) and "forward" in vars(module) and not hooks
