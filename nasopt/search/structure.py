"""Found structures as plain values (JSON), and the network rebuilt from seed and structure, without pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.errors import ConfigError
from nasopt.graph.branches.regions import happens
from nasopt.graph.build import build
from nasopt.graph.example import Example, make_example
from nasopt.graph.groups import Analysis, trace_model
from nasopt.graph.kernels import KernelCut

_FORMAT = "nasopt.structure"
_VERSION = 1

# (seed, structure, input example, leaf modules) -> the found network.
Restorer = Callable[[nn.Module, Mapping[str, Any], Any, tuple[Any, ...]], nn.Module]
_RESTORERS: dict[str, Restorer] = {}


def register_restorer(method: str, restorer: Restorer) -> None:
    """Rebuild structures of `method` with `restorer`, instead of by channels and kernels."""
    _RESTORERS[method] = restorer


def structure_head(method: str, example: Example) -> dict[str, Any]:
    """`{"format", "version", "method", "inputs"}`: what every structure begins with."""
    inputs = {
        name: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for name, value in example.arguments.items()
        if isinstance(value, Tensor)
    }
    return {"format": _FORMAT, "version": _VERSION, "method": method, "inputs": inputs}


def make_structure(
    method: str,
    analysis: Analysis,
    example: Example,
    keep: Tensor,
    kernels: Mapping[str, KernelCut],
    decisions: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """`{"format", "version", "method", "inputs", "choices", "channels", "kernels"}` of plain values.

    `channels` holds for every layer that loses some the positions of those it keeps; `kernels` holds for every layer
    and spatial dimension `[first tap, step, count]`; `choices` holds for every layer with branches the index of the one
    that remains. Layers of other branches are left out.
    """
    decided = dict(decisions or {})
    channels: dict[str, list[int]] = {}
    for layer, labels in analysis.propagation.writers:
        if layer not in decided and _runs(analysis, layer, decided) and not bool(keep[labels].all()):
            channels[layer] = torch.nonzero(keep[labels]).reshape(-1).tolist()
    cut = {
        name: [[axis.first, axis.step, axis.count] for axis in axes]
        for name, axes in kernels.items()
        if _runs(analysis, name, decided)
        and any(axis.count != size for axis, size in zip(axes, analysis.module.get_submodule(name).kernel_size))  # type: ignore[arg-type]
    }
    head = structure_head(method, example)
    return {**head, "choices": decided, "channels": channels, "kernels": cut}


def restore(
    seed: nn.Module, structure: Mapping[str, Any], *, input_example: Any = None, leaf_modules: tuple[Any, ...] = ()
) -> nn.Module:
    """The found network, rebuilt from its seed; a `state_dict` of the exported network loads into it.

    ```python
    json.dump(model.arch_structure(), file)                    # with the state_dict: all that is to keep
    network = nasopt.restore(make_seed(), json.load(file))
    network.load_state_dict(torch.load("weights.pt"))
    ```

    Args:
        seed: a model of the same architecture as the one that was wrapped; its weights are cut, it stays as it is.
        structure: from `arch_structure()`.
        input_example: only where an input of the model is not a plain tensor.
        leaf_modules: as given to the search model.

    Raises:
        ConfigError: the dict is no structure of this version, or names layers or channels that the seed does not have.
    """
    if structure.get("format") != _FORMAT or structure.get("version") != _VERSION:
        raise ConfigError(
            f"not a structure that this version reads: format {structure.get('format')!r}, version "
            f"{structure.get('version')!r}; wanted {_FORMAT!r}, {_VERSION}"
        )
    device = next((p.device for p in seed.parameters()), torch.device("cpu"))
    if input_example is None:
        input_example = {
            name: torch.zeros(spec["shape"], dtype=getattr(torch, spec["dtype"]), device=device)
            for name, spec in structure["inputs"].items()
        }
    if structure.get("method") in _RESTORERS:
        return _RESTORERS[structure["method"]](seed, structure, input_example, leaf_modules)
    example = make_example(seed, None, input_example)
    return build(trace_model(seed, example, leaf_modules), example, structure)


def _runs(analysis: Analysis, layer: str, decisions: Mapping[str, int]) -> bool:
    """Whether a layer, or a function that is named after its node, is still called and its result needed."""
    nodes = analysis.module.graph.nodes
    calls = [node for node in nodes if layer == (str(node.target) if node.op == "call_module" else node.name)]
    regions = [region for node in calls for region in analysis.propagation.used_in[node]]
    return any(happens(region, decisions) for region in regions) if calls else is_chosen(layer, decisions)


def is_chosen(layer: str, decisions: Mapping[str, int]) -> bool:
    """Whether a layer is in no branch, or in branches that all remain."""
    for choice, index in decisions.items():
        if layer.startswith(f"{choice}.branches."):
            branch = layer.removeprefix(f"{choice}.branches.").split(".")[0]
            if branch != str(index):
                return False
    return True
