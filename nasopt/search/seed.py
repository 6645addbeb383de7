"""The seed of a search: checks of it, and of the names, globs and classes that a user gives for its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.arguments import short
from nasopt.cost.network import NetworkCalls
from nasopt.errors import ConfigError, nearest
from nasopt.graph.example import Example
from nasopt.graph.trace import matches_module
from nasopt.search.parameters import ParameterHalves


@dataclass(frozen=True)
class Origin:
    """The seed that a user has given, of a model that a method has made of it.

    Attributes:
        calls: of the seed: what it costs.
        example: its inputs.
        names: key of its state dict -> key in that of the model.
        structure: what a structure must tell so that the model can be made of the seed again.
        rename: `(state dict, prefix, first branch of every choice among the logits, temperatures)`: gives the tensors of an
            older checkpoint today's names, in place; None: there are no older ones.
    """

    calls: NetworkCalls
    example: Example
    names: Mapping[str, str]
    structure: Mapping[str, Any]
    rename: Callable[[dict[str, Any], str, Mapping[str, int], Tensor], None] | None = None


def layer_patterns(value: Any, name: str) -> tuple[Any, ...]:
    """One pattern or several as a tuple; `name` is the argument they came in.

    Raises:
        ConfigError: neither a name, a glob nor a class of modules.
    """
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        value = (value,)
    for item in value:
        if not isinstance(item, str) and not (isinstance(item, type) and issubclass(item, nn.Module)):
            raise ConfigError(f"{name} holds names, globs or nn.Module classes; got {short(item)}")
    return tuple(value)


def excluded_layers(names: Any, types: Any) -> tuple[Any, ...]:
    """`exclude_names` and `exclude_types` as one tuple of patterns; errors as in `layer_patterns`."""
    words, classes = layer_patterns(names, "exclude_names"), layer_patterns(types, "exclude_types")
    for item in words:
        if not isinstance(item, str):
            raise ConfigError(f"exclude_names holds names and globs, got {item!r}: classes belong into exclude_types")
    for item in classes:
        if isinstance(item, str):
            raise ConfigError(f"exclude_types holds nn.Module classes, got {item!r}: names belong into exclude_names")
    return words + classes


def check_layer_patterns(exclude: Sequence[Any], model: nn.Module) -> None:
    """Raise a `ConfigError` where a pattern of `exclude_names` or `exclude_types` matches no layer."""
    modules = [(name, module) for name, module in model.named_modules() if name]
    for pattern in exclude:
        if any(matches_module(name, module, [pattern]) for name, module in modules):
            continue
        which = "exclude_names" if isinstance(pattern, str) else "exclude_types"
        hint = nearest(pattern, [name for name, _ in modules]) if isinstance(pattern, str) else ""
        raise ConfigError(
            f"{which}: {pattern!r} matches no layer of {type(model).__name__}. Names are those of "
            f"model.named_modules(), globs like 'layer1.*' are allowed.{hint}"
        )


def check_seed(model: Any, method: str) -> None:
    """Raise a `ConfigError` where a method cannot wrap `model`: no module, without values, or search models inside."""
    if isinstance(model, ParameterHalves):
        raise ConfigError(
            f"{method} got a {type(model).__name__}, which is under search already: wrap the seed, or "
            "what model.arch_export() returns"
        )
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{method} wraps an nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise ConfigError(
            f"{method} got a {type(model).__name__} of TorchScript, which has no Python code to follow: wrap the model that it "
            "was made of. A part that is TorchScript stays whole"
        )
    inner = next((name for name, module in model.named_modules() if isinstance(module, ParameterHalves)), None)
    if inner is not None:
        raise ConfigError(
            f"{method}: {inner!r} in {type(model).__name__} is under search already: build the model of "
            "seeds, or of what arch_export() returns"
        )
    empty = next((name for name, parameter in model.named_parameters() if parameter.is_meta), None)
    if empty is not None:
        raise ConfigError(
            f"{method}: {empty!r} in {type(model).__name__} is on the meta device and has no values, so "
            "nothing can be trained: build the model on a real device, or call model.to_empty(device=...) and load weights"
        )


def check_no_choices(choices: Iterable[str], method: str) -> None:
    """Raise a `ConfigError` where a method that decides between no branches meets a `SuperNetModule`."""
    first = next(iter(choices), None)
    if first is not None:
        raise ConfigError(
            f"{method} does not choose between branches, and {first!r} is a SuperNetModule: wrap the model in "
            "nasopt.SuperNet (branches) or nasopt.PITSuperNet (branches and channels at once); or export from SuperNet first "
            f"and wrap what it found in {method}"
        )
