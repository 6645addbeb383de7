"""Structures of found cells: how their model is made of the seed again; structures and checkpoints of version 0.1."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from nasopt.errors import ConfigError
from nasopt.graph.example import make_example
from nasopt.methods.nasb.candidates import IDENTITY, Settings
from nasopt.methods.nasb.cell import node_key, operation_name, place_of
from nasopt.methods.nasb.convert import convert
from nasopt.search.structure import example_inputs


def seed_with_cells(
    seed: nn.Module, structure: Mapping[str, Any], input_example: Any, leaf_modules: tuple[Any, ...]
) -> tuple[nn.Module, dict[str, Any]]:
    """The model that was searched, with fresh operations, and its inputs.

    Raises:
        ConfigError: the structure says nothing usable of its cells, or the seed has no such stages.
    """
    given = example_inputs(seed, structure) if input_example is None else input_example
    example = make_example(seed, None, given)
    made = convert(seed, example, _cells(structure), _settings(structure), leaf_modules)
    return made.module, {name: example.arguments[name] for name in example.traced}


def _cells(structure: Mapping[str, Any]) -> list[str]:
    given = structure["binary_cells"]
    names = given.get("cells") if isinstance(given, Mapping) else None
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"damaged structure, binary_cells: got {str(given)[:80]!r}, wanted a dict with a list of cells"
        )
    return list(names)


def _settings(structure: Mapping[str, Any]) -> Settings:
    own = {name: value for name, value in structure["binary_cells"].items() if name != "cells"}
    try:
        return Settings(**{**own, "candidates": tuple(own["candidates"])})
    except (KeyError, TypeError) as error:
        raise ConfigError(f"damaged structure, binary_cells: {error}. Save arch_structure() again") from error


def current(structure: Any) -> Any:
    """A structure in today's form: version 0.1 listed `[branch, source, target, operation]` of every cell.

    Raises:
        ConfigError: it is an older one, and damaged.
    """
    if not isinstance(structure, Mapping) or structure.get("method") != "NASB" or "kept" not in structure:
        return structure
    try:
        cells = {"cells": list(structure["cells"]), **structure["settings"]}
        settings = _settings({"binary_cells": cells})
        choices: dict[str, list[int]] = {}
        for cell, branch, source, target, operation in _rows(structure):
            place = place_of(settings, source, target, operation)
            choices.setdefault(f"{cell}.into.{node_key(branch, target)}", []).append(place)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"damaged structure of cells: {error!r}. Take the last good file") from error
    head = {key: structure[key] for key in ("format", "version", "method", "inputs") if key in structure}
    kept = {path: sorted(places) for path, places in choices.items()}
    return {**head, "binary_cells": cells, "choices": kept, "channels": {}, "kernels": {}}


def old_names(structure: Mapping[str, Any]) -> dict[str, str]:
    """Today's path -> that of an older structure, of every operation that is kept."""
    return {
        f"{cell}.into.{node_key(branch, target)}.{operation_name(source, operation)}": (
            f"{cell}.operations.branch{branch}_{source}_to_{target}_{operation}"
        )
        for cell, branch, source, target, operation in _rows(structure)
        if operation != IDENTITY
    }


def _rows(structure: Mapping[str, Any]) -> list[tuple[str, int, int, int, str]]:
    return [(cell, b, i, j, operation) for cell, rows in structure["kept"].items() for b, i, j, operation in rows]


_OLD_OPERATION = re.compile(r"\.operations\.branch(\d+)_(\d+)_to_(\d+)\.(\w+)\.")


def rename_old_state(
    settings: Settings,
    shapes: Mapping[str, Sequence[Any]],
    state: dict[str, Any],
    prefix: str,
    first: Mapping[str, int],
    temperatures: Tensor,
) -> None:
    """Give the tensors of a checkpoint of version 0.1 today's names, in place; any other stays as it is.

    Args:
        settings: of the search.
        shapes: of the nodes of every cell.
        state: that of 0.1 has `alpha`, one row per edge: cell after cell, branch after branch, node after node.
        prefix: of its keys.
        first: path of every choice -> position of its first branch among the logits.
        temperatures: of the choices, which 0.1 did not keep.
    """
    if f"{prefix}alpha" not in state:
        return
    state[f"{prefix}temperatures"] = temperatures
    alpha = state.pop(f"{prefix}alpha")
    nodes = [
        (f"{cell}.into.{node_key(branch, target)}", target)
        for cell, own in shapes.items()
        for branch in range(settings.branches)
        for target in range(1, len(own))
    ]
    logits = alpha.reshape(-1).clone()
    if alpha.shape == (sum(target for _, target in nodes), len(settings.candidates)):
        row = 0
        for path, target in nodes:
            start = first[path]
            logits[start : start + target * alpha.shape[1]] = alpha[row : row + target].reshape(-1)
            row += target
    state[f"{prefix}choice_logits"] = logits  # of another search it has another size, which torch will name

    def new(old: re.Match[str]) -> str:
        branch, source, target = (int(old[i]) for i in (1, 2, 3))
        return f".into.{node_key(branch, target)}.branches.{place_of(settings, source, target, old[4])}."

    for name in [name for name in state if ".operations." in name]:
        state[_OLD_OPERATION.sub(new, name)] = state.pop(name)
