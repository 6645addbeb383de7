"""Binary cells in the place of named stages of a seed: stages are found in its graph and taken out as backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from nasopt.arguments import check_items
from nasopt.checked import checked
from nasopt.errors import ConfigError, TraceError, nearest
from nasopt.graph.edit import put_module, tidy
from nasopt.graph.example import Example, make_example
from nasopt.graph.groups import trace_model
from nasopt.graph.trace import LeafModules
from nasopt.methods.nasb.backbone import check_alignment, divide, join, make_backbone
from nasopt.methods.nasb.candidates import USUAL, Settings
from nasopt.methods.nasb.cell import Cell
from nasopt.methods.nasb.main_path import bypass, drop_activations_before, follows_directly, stage_input


@dataclass(frozen=True)
class Converted:
    """A seed with cells in the place of its stages.

    Attributes:
        module: takes the tensors that the seed takes, in their order.
        cells: path of every cell -> the cell.
        stages: names of the stages that became cells, in the order of the network.
        names: key of the seed's state dict -> key in that of `module`.
    """

    module: nn.Module
    cells: Mapping[str, Cell]
    stages: tuple[str, ...]
    names: Mapping[str, str]


@checked
def binary_cells(
    model: nn.Module,
    input_shape: Sequence[Any] | None = None,
    *,
    cells: Sequence[str] | str | None = None,
    keep: int = 1,
    keep_output: int | None = None,
    nodes: int | None = None,
    branches: int = 1,
    candidates: Sequence[str] = USUAL,
    input_example: Any = None,
    leaf_modules: LeafModules = (),
) -> nn.Module:
    """A copy of `model` with binary cells in the place of stages: what `NASB` searches.

    A cell keeps the stage's chain of convolutions, binarised, and holds one `SuperNetModule` per node. Without candidates the
    result is the binary network that has the backbones alone.

    Args:
        model: any model that nasopt can trace; it stays as it is.
        input_shape, cells, keep, keep_output, nodes, branches, candidates, input_example, leaf_modules: as in `NASB`.

    Raises:
        ConfigError: an argument is not usable, or a stage is no chain of convolutions.
    """
    settings = Settings(keep, keep if keep_output is None else keep_output, nodes, branches, tuple(candidates))
    return convert(model, make_example(model, input_shape, input_example), cells, settings, leaf_modules).module


def convert(
    model: nn.Module,
    example: Example,
    cells: Sequence[str] | str | None,
    settings: Settings,
    leaf_modules: LeafModules,
) -> Converted:
    """A copy of `model` with cells in the place of stages.

    Args:
        cells: paths of stages or blocks; None: `find_cells`. Stages that follow each other directly are regrouped where
            `settings.nodes` says how many nodes a cell has.

    Raises:
        ConfigError: a stage does not exist, is named twice, lies in another one, is called more than once, or is no
            chain of convolutions.
    """
    names = find_cells(model, example, leaf_modules) if cells is None else check_cells(model, cells)
    outer = trace_model(model, example, [*leaf_modules, *names])
    order = [str(node.target) for node in outer.graph.nodes if node.op == "call_module"]
    shapes = {name: stage_input(outer, name) for name in names}
    names.sort(key=order.index)
    backbones = {name: make_backbone(model.get_submodule(name), name, shapes[name]) for name in names}
    runs: list[list[str]] = []
    for name in names:
        drop_activations_before(outer, name)
        if settings.nodes is not None and runs and follows_directly(outer, runs[-1][-1], name):
            runs[-1].append(name)
        else:
            runs.append([name])
    made: dict[str, Cell] = {}
    origins: dict[str, str] = {}
    for run in runs:
        for name in run[1:]:
            bypass(outer, name)
        whole = [backbones[name] for name in run]
        parts = whole if settings.nodes is None else divide(join(whole), settings.nodes)
        members = []
        for i, backbone in enumerate(parts):
            path = run[0] if len(parts) == 1 else f"{run[0]}.{i}"
            check_alignment(backbone, path)
            made[path] = Cell(backbone, settings, path).train(model.training)
            members.append(made[path])
            origins |= {old: f"{path}.{new}" for old, new in backbone.origins.items()}
        put_module(outer, run[0], members[0] if len(parts) == 1 else nn.Sequential(*members).train(model.training))
    tidy(outer)
    return Converted(outer, made, tuple(names), {name: _own_name(name, origins) for name in model.state_dict()})


def _own_name(seed_name: str, origins: Mapping[str, str]) -> str:
    """Where a tensor of the seed is kept: below the new path of the layer that holds it."""
    layer, _, tensor = seed_name.rpartition(".")
    parts = layer.split(".")
    for length in range(len(parts), 0, -1):
        path = ".".join(parts[:length])
        if path in origins:
            return ".".join([origins[path], *parts[length:], tensor])
    return seed_name


def check_cells(model: nn.Module, cells: Sequence[str] | str) -> list[str]:
    """The names as a list.

    Raises:
        ConfigError: none is given, one does not exist, or two overlap.
    """
    names = [cells] if isinstance(cells, str) else check_items("cells", cells, str, "names of stages")
    if not names:
        raise ConfigError("cells is empty: name at least one stage or block, or leave it out to find them")
    modules = {name for name, _ in model.named_modules() if name}
    for i, name in enumerate(names):
        if name not in modules:
            hint = nearest(str(name), modules)
            raise ConfigError(
                f"cells: {name!r} is no module of {type(model).__name__}; its children are "
                f"{', '.join(child for child, _ in model.named_children())}.{hint}"
            )
        for other in names[:i]:
            if name == other or name.startswith(f"{other}.") or other.startswith(f"{name}."):
                raise ConfigError(f"cells: {other!r} and {name!r} overlap; every convolution belongs to one cell only")
    return names


def find_cells(model: nn.Module, example: Example, leaf_modules: LeafModules) -> list[str]:
    """The largest modules with at least two convolutions that can be converted, the first convolution left out.

    Raises:
        ConfigError: there is none.
    """
    first = next((name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)), "")
    found: list[str] = []
    reasons: list[str] = []
    waiting = [name for name, _ in model.named_children()]
    while waiting:
        name = waiting.pop(0)
        stage = model.get_submodule(name)
        convolutions = sum(isinstance(m, nn.Conv2d) for m in stage.modules())
        if convolutions < 2:
            continue
        holds_first = first == name or first.startswith(f"{name}.")
        if not holds_first:
            try:
                outer = trace_model(model, example, [*leaf_modules, name])
                make_backbone(stage, name, stage_input(outer, name))
            except (ConfigError, TraceError) as error:
                reasons.append(str(error))
            else:
                found.append(name)
                continue
        waiting = [f"{name}.{child}" for child, _ in stage.named_children()] + waiting
    if not found:
        because = f" For example: {reasons[0]}" if reasons else ""
        raise ConfigError(
            f"{type(model).__name__} has no stage that can become a cell: a module with a chain of at least two 2-D "
            f"convolutions, after the first convolution. Name stages in cells=.{because}"
        )
    return found
