"""Can this be searched at all?"""

from __future__ import annotations

from typing import Any

from torch import nn

from nasopt.errors import ConfigError


def check_seed(model: Any, wrapper: type, search_model: type) -> None:
    """Raise a `ConfigError` where `wrapper` cannot wrap `model`: no module, without values, or `search_model`s inside."""
    if isinstance(model, search_model):
        raise ConfigError(
            f"{wrapper.__name__} got a {type(model).__name__}, which is under search already: wrap the seed, or "
            "what model.arch_export() returns"
        )
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{wrapper.__name__} wraps an nn.Module, got {type(model).__name__}")
    inner = next((name for name, module in model.named_modules() if isinstance(module, search_model)), None)
    if inner is not None:
        raise ConfigError(
            f"{wrapper.__name__}: {inner!r} in {type(model).__name__} is under search already: build the model of "
            "seeds, or of what arch_export() returns"
        )
    empty = next((name for name, parameter in model.named_parameters() if parameter.is_meta), None)
    if empty is not None:
        raise ConfigError(
            f"{wrapper.__name__}: {empty!r} in {type(model).__name__} is on the meta device and has no values, so "
            "nothing can be trained: build the model on a real device, or call model.to_empty(device=...) and load weights"
        )
