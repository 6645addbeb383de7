"""Comparison of a model across processes: facts about it as text; the first difference is named."""

from __future__ import annotations

import dataclasses
import hashlib
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nasopt.checked import checked
from nasopt.errors import ConfigError

_CURE = (
    "Build the model in the same way in every process: the same seed network, the same torch.manual_seed before it is made, the "
    "same arguments, the same checkpoint"
)
# Attributes of a search model that are compared by other means, or may differ.
_OTHER = frozenset({"training", "example"})


@checked
def check_same(model: nn.Module, group: Any = None) -> None:
    """Raise where the processes hold different models: other layers, settings, shapes, or values.

    Call it in all processes, before `DistributedDataParallel(model)`, which silently replaces the values of all others by those
    of the first process; or at any later time, to see that they are still the same.

    ```python
    model = PIT(seed, input_shape=(3, 32, 32))
    nasopt.distributed.check_same(model)
    parallel = DistributedDataParallel(model)
    ```

    Args:
        model: a search model, or any module; its `DistributedDataParallel` will do.
        group: of processes; None: all.

    Raises:
        ConfigError: in every process, if two models differ; the message names processes and the first difference. Or
            `torch.distributed` is not initialised.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise ConfigError(
            "check_same compares processes, and torch.distributed is not initialised: start the script with torchrun and "
            "call torch.distributed.init_process_group() first"
        )
    if isinstance(model, DistributedDataParallel):
        model = model.module
    _compare({**_structure(model), **_values(model)}, group)


def check_structure(model: nn.Module, group: Any) -> None:
    """As `check_same`, values left out.

    Raises:
        ConfigError: two models differ.
    """
    _compare(_structure(model), group)


def _compare(facts: dict[str, str], group: Any) -> None:
    mine = hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()
    digests: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(digests, mine, group=group)
    others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if not others:
        return
    held: list[Any] = [None] * len(digests)
    dist.all_gather_object(held, facts, group=group)
    first, other = held[0], held[others[0]]
    keys = [*first, *(key for key in other if key not in first)]
    differing = [key for key in keys if first.get(key) != other.get(key)]
    more = f" (and {len(differing) - 1} more differences)" if len(differing) > 1 else ""
    ranks = ", ".join(map(str, others))
    raise ConfigError(
        f"the processes hold different models: rank {ranks} not that of rank 0. {differing[0]}: "
        f"{first.get(differing[0], 'nothing')} in rank 0, {other.get(differing[0], 'nothing')} in rank {others[0]}{more}. "
        f"{_CURE}"
    )


def _structure(model: nn.Module) -> dict[str, str]:
    """What a model is, apart from its values."""
    facts = {"the class": type(model).__name__}
    facts |= {f"the setting {key}": plain for key, plain in _settings(model).items()}
    for name, module in model.named_modules():
        if name:
            facts[f"layer {name!r}"] = f"{type(module).__name__}({module.extra_repr()})"
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        kind = "takes gradients" if tensor.requires_grad else "fixed"
        facts[f"tensor {name!r}"] = f"{tuple(tensor.shape)}, {tensor.dtype}, {kind}"
    for name, module in model.named_modules():
        code = getattr(module, "code", None)  # of a traced network
        if isinstance(code, str):
            facts[f"the traced forward of {name!r}"] = "code " + hashlib.sha256(code.encode()).hexdigest()[:8]
    return facts


def _settings(model: nn.Module) -> dict[str, str]:
    own = {key: value for key, value in vars(model).items() if key not in _OTHER and not key.startswith("_")}
    return {key: _plain(value) for key, value in sorted(own.items())}


def _plain(value: Any) -> str:
    """Text without addresses; a metric or a target is told by its name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_plain(key)}: {_plain(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(_plain, value)) + ")"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(map(_plain, value))) + "}"
    name = getattr(value, "name", None) or getattr(value, "__qualname__", None)
    if isinstance(name, str):
        return name
    if dataclasses.is_dataclass(value):
        fields = ", ".join(f"{field.name}={_plain(getattr(value, field.name))}" for field in dataclasses.fields(value))
        return f"{type(value).__name__}({fields})"
    return type(value).__name__


def _values(model: nn.Module) -> dict[str, str]:
    return {f"the values of {name!r}": f"checksum {_checksum(t):08x}" for name, t in model.state_dict().items()}


def _checksum(tensor: Any) -> int:
    if not isinstance(tensor, Tensor):
        return zlib.crc32(repr(tensor).encode())
    return zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
