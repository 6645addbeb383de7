"""Which parts of a seed become cells? Named stages found in its graph, and taken out as backbones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from nasopt.errors import ConfigError, TraceError, nearest
from nasopt.graph.example import Example
from nasopt.graph.groups import trace_model
from nasopt.graph.stages import Traced, bypass, drop_activations_before, follows_directly, stage_input, tidy
from nasopt.graph.trace import LeafModules
from nasopt.methods.nasb.backbone import Backbone, divide, join, make_backbone


@dataclass
class Conversion:
    """A seed whose stages are waiting for cells.

    Attributes:
        outer: the traced seed; the first stage of every run is a placeholder for its cells, the others are gone.
        places: path in `outer` -> backbones of the cells that stand there one after the other.
        names: of the stages that were taken out, in the order of the network.
    """

    outer: Traced
    places: dict[str, list[Backbone]]
    names: tuple[str, ...]

    def fill(self, cells: dict[str, list[nn.Module]]) -> Traced:
        """Put cells in their places; returns `outer`."""
        for place, members in cells.items():
            self.outer.set_submodule(place, members[0] if len(members) == 1 else nn.Sequential(*members))
        tidy(self.outer)
        return self.outer


def convert(
    model: nn.Module, example: Example, cells: Sequence[str] | str | None, nodes: int | None, leaf_modules: LeafModules
) -> Conversion:
    """Take the named stages out of a copy of `model`.

    Args:
        cells: paths of stages or blocks; None: `find_cells`.
        nodes: nodes per cell; stages that follow each other directly are regrouped. None: one cell per stage.

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
        if nodes is not None and runs and follows_directly(outer, runs[-1][-1], name):
            runs[-1].append(name)
        else:
            runs.append([name])
    places = {}
    for run in runs:
        whole = [backbones[name] for name in run]
        places[run[0]] = whole if nodes is None else divide(join(whole), nodes)
        for name in run[1:]:
            bypass(outer, name)
    return Conversion(outer, places, tuple(names))


def check_cells(model: nn.Module, cells: Sequence[str] | str) -> list[str]:
    """The names as a list.

    Raises:
        ConfigError: none is given, one does not exist, or two overlap.
    """
    names = [cells] if isinstance(cells, str) else list(cells)
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
