"""Found structures as plain values (JSON), and the network rebuilt from seed and structure, without pickle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.errors import ConfigError
from nasopt.graph.branches.regions import Decisions, happens
from nasopt.graph.build import build
from nasopt.graph.example import Example, make_example
from nasopt.graph.functional_layers import use_layers
from nasopt.graph.groups import Analysis, Traced, trace_model
from nasopt.graph.held_weights import hold_weights
from nasopt.graph.kernels import KernelCut
from nasopt.graph.quantised import quantise_network
from nasopt.seal import KEY, is_broken, sealed
from nasopt.search.precision import widths_from_plain

_FORMAT = "nasopt.structure"
_VERSION = 1


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
    decisions: Decisions,
    plain_choices: Mapping[str, int | list[int]],
    head: Mapping[str, Any],
    channels_before: Mapping[str, Sequence[int]],
    kernels_before: Mapping[str, Sequence[Sequence[int]]],
) -> dict[str, Any]:
    """`{"format", "version", "method", "inputs", "choices", "channels", "kernels", "sha256"}` of plain values.

    `channels` holds for every layer that loses some the positions of those it keeps; `kernels` holds for every layer
    and spatial dimension `[first tap, step, count]`; `choices` holds for every layer with branches the index of the one
    that remains, or a list where several may. Layers of other branches are left out. `head` is put in front. Positions are those
    of the seed, of which a model that has been shrunk has had `channels_before` and `kernels_before`.
    """
    decided = dict(decisions)
    channels: dict[str, list[int]] = {}
    for layer, labels in analysis.facts.writers:
        is_cut = layer in channels_before or not bool(keep[labels].all())
        if layer not in decided and is_cut and _runs(analysis, layer, decided):
            kept = torch.nonzero(keep[labels]).reshape(-1).tolist()
            before = channels_before.get(layer)
            channels[layer] = kept if before is None else [before[position] for position in kept]
    own = {
        name: [[axis.first, axis.step, axis.count] for axis in axes]
        for name, axes in kernels.items()
        if _runs(analysis, name, decided)
        and any(axis.count != size for axis, size in zip(axes, analysis.module.get_submodule(name).kernel_size))  # type: ignore[arg-type]
    }
    cut = {name: compose(kernels_before.get(name), axes) for name, axes in own.items()}
    cut |= {
        name: [list(axis) for axis in axes]
        for name, axes in kernels_before.items()
        if name not in own and _runs(analysis, name, decided)
    }
    parts = {"choices": dict(plain_choices), "channels": channels, "kernels": cut}
    return sealed({**structure_head(method, example), **head, **parts})


def compose(before: Sequence[Sequence[int]] | None, axes: Sequence[Sequence[int]]) -> list[list[int]]:
    """`[first tap, step, count]` in the seed's kernel of taps that are left of those that were left `before`."""
    starts = before or [(0, 1, 0)] * len(axes)
    return [[start + step * f, step * s, count] for (start, step, _), (f, s, count) in zip(starts, axes)]


def rebuild(
    seed: nn.Module, structure: Mapping[str, Any], input_example: Any = None, leaf_modules: tuple[Any, ...] = ()
) -> Traced:
    """The network that a checked structure describes, from its seed; see `nasopt.restore`."""
    example = make_example(seed, None, example_inputs(seed, structure) if input_example is None else input_example)
    net = trace_model(seed, example, leaf_modules)
    if "precision" in structure:
        hold_weights(net, warns=False)
        use_layers(net)
        quantise_network(net, widths_from_plain(structure["precision"]))
    return build(net, example, structure)


def example_inputs(seed: nn.Module, structure: Mapping[str, Any]) -> dict[str, Tensor]:
    """Zeros like the inputs of the search; floating ones have the dtype of the seed that is given now."""
    like = next((p for p in seed.parameters() if p.is_floating_point()), torch.empty(0))
    found = {}
    for name, spec in structure["inputs"].items():
        dtype = getattr(torch, spec["dtype"])
        found[name] = like.new_zeros(spec["shape"], dtype=like.dtype if dtype.is_floating_point else dtype)
    return found


def check_structure(structure: Any) -> None:
    """Raise a `ConfigError` where a value is no structure of this version; it may come from a file of anybody's.

    Names of layers and numbers of channels are compared with the seed when the network is built.
    """
    _check(isinstance(structure, Mapping), "structure", structure, "a dict as arch_structure() returns it")
    if structure.get("format") != _FORMAT or structure.get("version") != _VERSION:
        raise ConfigError(
            f"not a structure that this version reads: format {structure.get('format')!r}, version "
            f"{structure.get('version')!r}; wanted {_FORMAT!r}, {_VERSION}"
        )
    _check(isinstance(structure.get("method"), str), "method", structure.get("method"), "the name of a method")
    for part in ("inputs", "channels", "kernels"):
        _check(_is_named(structure.get(part)), part, structure.get(part), "a dict by name")
    for name, spec in structure["inputs"].items():
        _check_input(f"inputs[{name!r}]", spec)
    known = {
        "format",
        "version",
        "method",
        "inputs",
        "binary_cells",
        "precision",
        "choices",
        "channels",
        "kernels",
        KEY,
    }
    for key in structure:
        _check(key in known, "structure", key, f"none but {', '.join(sorted(known))}")
    if "precision" in structure:
        widths_from_plain(structure["precision"])
    choices = structure.get("choices", {})
    _check(_is_named(choices), "choices", choices, "a dict by name")
    for name, branch in choices.items():
        fits = _is_count(branch) or (_is_positions(branch) and len(branch) > 0)
        _check(fits, f"choices[{name!r}]", branch, "the index of a branch, or a rising list of indices")
    for name, kept in structure["channels"].items():
        fits = _is_positions(kept) and len(kept) > 0
        _check(fits, f"channels[{name!r}]", kept, "a rising list of at least one position")
    for name, axes in structure["kernels"].items():
        is_list = isinstance(axes, (list, tuple)) and len(axes) > 0
        fits = is_list and all(isinstance(a, (list, tuple)) and len(a) == 3 and all(map(_is_count, a)) for a in axes)
        _check(fits and all(step and count for _, step, count in axes), f"kernels[{name!r}]", axes, _AXES)
    if KEY in structure and is_broken(structure):
        raise ConfigError(
            f"damaged structure: its content is another one than {KEY!r} says. Save arch_structure() again, take the last good "
            f"file, or, where you have changed it on purpose, leave {KEY!r} out"
        )


_AXES = "[first tap, step, count] for every spatial dimension, step and count above 0"
# An input of more elements is no example of anything, and would not fit into memory.
_MOST_ELEMENTS = 1 << 28


def _check_input(where: str, spec: Any) -> None:
    _check(_is_named(spec) and set(spec) == {"shape", "dtype"}, where, spec, "a dict of shape and dtype")
    shape, dtype = spec["shape"], spec["dtype"]
    _check(isinstance(shape, (list, tuple)) and all(map(_is_count, shape)), where, shape, "a shape of ints >= 0")
    _check(math.prod(shape) <= _MOST_ELEMENTS, where, shape, f"a shape of at most {_MOST_ELEMENTS:,} elements")
    fits = isinstance(dtype, str) and isinstance(getattr(torch, dtype, None), torch.dtype)
    _check(fits, where, dtype, "the name of a torch dtype, e.g. 'float32'")


def _check(fits: bool, where: str, given: Any, wanted: str) -> None:
    if not fits:
        raise ConfigError(
            f"damaged structure, {where}: got {str(given)[:80]!r}, wanted {wanted}. Save arch_structure() again, or take the "
            "last good file"
        )


def _is_named(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_positions(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_is_count, value)) and list(value) == sorted(set(value))


def _runs(analysis: Analysis, layer: str, decisions: Decisions) -> bool:
    """Whether a layer, or a function that is named after its node, is still called and its result needed."""
    nodes = analysis.module.graph.nodes
    calls = [node for node in nodes if layer == (str(node.target) if node.op == "call_module" else node.name)]
    regions = [region for node in calls for region in analysis.facts.used_in[node]]
    return any(happens(region, decisions) for region in regions) if calls else is_chosen(layer, decisions)


def plain_decision(keep: int, kept: Sequence[int]) -> int | list[int]:
    """What is kept, as an int where it is one of all: the form of structures and summaries."""
    return kept[0] if keep == 1 else list(kept)


def is_chosen(layer: str, decisions: Decisions) -> bool:
    """Whether a layer is in no branch, or in branches that all remain."""
    for choice, kept in decisions.items():
        if layer.startswith(f"{choice}.branches."):
            branch = layer.removeprefix(f"{choice}.branches.").split(".")[0]
            if int(branch) not in kept:
                return False
    return True
