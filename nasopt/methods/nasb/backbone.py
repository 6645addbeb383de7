"""Backbones of cells: a stage of the seed as binary steps between nodes, and what aligns nodes of other shapes."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from torch import nn

from nasopt.errors import ConfigError
from nasopt.graph.example import make_example
from nasopt.graph.groups import Traced, trace_model
from nasopt.methods.nasb.candidates import strides
from nasopt.methods.nasb.main_path import Chain, NodeShape, find_chain
from nasopt.nn import BinaryActivation, BinaryConv2d


class Step(nn.Module):
    """Node i to node i + 1 of a backbone: what stays of the seed in between, sign, binary convolution, norm.

    Attributes:
        before: poolings, dropout or padding that the seed has before this convolution.
    """

    def __init__(self, before: Sequence[nn.Module], conv: BinaryConv2d, norm: nn.Module) -> None:
        super().__init__()
        self.before = nn.Sequential(*before)
        self.sign = BinaryActivation()
        self.conv = conv
        self.norm = norm

    def forward(self, x: object) -> object:
        return self.norm(self.conv(self.sign(self.before(x))))


@dataclass
class Backbone:
    """The fixed part of one cell.

    Attributes:
        shapes: of the nodes 0..n.
        steps: n of them.
        aligners: start node -> (shape, the seed's own down-sampling layers from there to nodes of that shape).
        joints: nodes at which a block of the seed ends; branches meet there.
        after: what the seed has behind the last convolution.
        origins: path in the seed -> path in the cell (of its first backbone), of every layer that was taken over.
    """

    shapes: list[NodeShape]
    steps: list[Step] = field(default_factory=list)
    aligners: dict[int, tuple[NodeShape, nn.Sequential]] = field(default_factory=dict)
    joints: set[int] = field(default_factory=set)
    after: list[nn.Module] = field(default_factory=list)
    origins: dict[str, str] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        """Number of nodes, the input included."""
        return len(self.shapes)


def make_backbone(stage: nn.Module, name: str, shape: NodeShape) -> Backbone:
    """Copy a stage as a chain of binary steps.

    Args:
        stage: a module of the seed; it stays as it is.
        name: its path in the seed.
        shape: of its input.

    Raises:
        ConfigError: the stage is no chain of convolutions, or one of them cannot be binarised.
        TraceError: its `forward` depends on data.
    """
    whole = nn.Sequential(stage)
    whole.train(stage.training)
    traced = trace_model(whole, make_example(whole, shape, None))
    chain = find_chain(traced, name)
    backbone = Backbone([chain.shape, *(step.shape for step in chain.steps)], joints=set(chain.joints))
    for i, step in enumerate(chain.steps):
        conv = traced.get_submodule(step.conv)
        assert isinstance(conv, nn.Conv2d)
        try:
            binary = BinaryConv2d.from_conv(conv, bias=False)
        except ConfigError as error:
            raise ConfigError(f"cell {name!r}, {_seed_path(name, step.conv)}: {error}") from None
        norm = traced.get_submodule(step.norm) if step.norm is not None else _norm_like(conv)
        before = [traced.get_submodule(path) for path in step.before]
        backbone.steps.append(Step(copy.deepcopy(before), binary, copy.deepcopy(norm)))
        backbone.origins[_seed_path(name, step.conv)] = f"steps.0.{i}.conv"
        if step.norm is not None:
            backbone.origins[_seed_path(name, step.norm)] = f"steps.0.{i}.norm"
        for j, path in enumerate(step.before):
            backbone.origins[_seed_path(name, path)] = f"steps.0.{i}.before.{j}"
    _take_shortcuts(backbone, chain, traced, name)
    backbone.after = [copy.deepcopy(traced.get_submodule(path)) for path in chain.after]
    for j, path in enumerate(chain.after):
        backbone.origins[_seed_path(name, path)] = f"after.{j}"
    return backbone


def _take_shortcuts(backbone: Backbone, chain: Chain, traced: Traced, name: str) -> None:
    for shortcut in chain.shortcuts:
        layers = nn.Sequential(*(copy.deepcopy(traced.get_submodule(path)) for path in shortcut.layers))
        if shortcut.start in backbone.aligners:
            raise ConfigError(
                f"cell {name!r}: two shortcuts with weights leave node {shortcut.start}; name smaller parts"
            )
        backbone.aligners[shortcut.start] = (shortcut.shape, layers)
        for j, path in enumerate(shortcut.layers):
            backbone.origins[_seed_path(name, path)] = f"aligners.{shortcut.start}.{j}"


def _seed_path(name: str, path: str) -> str:
    """A path in the traced stage, which hangs under "0", as a path in the seed."""
    return name + path[1:]


def _norm_like(conv: nn.Conv2d) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(conv.out_channels, device=conv.weight.device, dtype=conv.weight.dtype)


def join(backbones: Sequence[Backbone]) -> Backbone:
    """One backbone of several that follow each other."""
    whole = Backbone([backbones[0].shapes[0]])
    for part in backbones:
        shift = len(whole.steps)
        waiting = whole.after
        # Down-sampling layers of a stage do not fit to the node before a pooling that stood between the stages.
        aligners = {start: aligner for start, aligner in part.aligners.items() if start or not waiting}
        for old, new in part.origins.items():
            if not new.startswith("aligners.") or _number(new) in aligners:
                whole.origins[old] = _shifted(new, shift)
        for step in part.steps:
            if waiting:
                step.before = nn.Sequential(*waiting, *step.before)
                waiting = []
            whole.steps.append(step)
        whole.shapes += part.shapes[1:]
        whole.joints |= {joint + shift for joint in part.joints}
        whole.aligners |= {start + shift: aligner for start, aligner in aligners.items()}
        whole.after = part.after
    return whole


def _shifted(path: str, shift: int) -> str:
    if path.startswith("after."):
        return path
    start, inner = _PLACE.match(path).groups()  # type: ignore[union-attr]
    return f"{start}{_number(path) + shift}{inner}"


_PLACE = re.compile(r"(steps\.0\.|aligners\.)\d+(.*)")


def _number(path: str) -> int:
    """Of the step or the node that a path in a cell leads to."""
    start, inner = _PLACE.match(path).groups()  # type: ignore[union-attr]
    return int(path[len(start) : len(path) - len(inner)])


def divide(whole: Backbone, nodes: int) -> list[Backbone]:
    """Backbones of at most `nodes` nodes each; the last one takes what remains."""
    size = nodes - 1
    bounds = [*range(0, len(whole.steps), size), len(whole.steps)]
    return [_cut(whole, first, last) for first, last in pairwise(bounds)]


def _cut(whole: Backbone, first: int, last: int) -> Backbone:
    is_last = last == len(whole.steps)
    origins = {}
    for old, new in whole.origins.items():
        if new.startswith("after."):
            origins.update({old: new} if is_last else {})
        elif first <= _number(new) < last:
            origins[old] = _shifted(new, -first)
    return Backbone(
        whole.shapes[first : last + 1],
        whole.steps[first:last],
        {start - first: aligner for start, aligner in whole.aligners.items() if first <= start < last},
        {joint - first for joint in whole.joints if first < joint <= last},
        whole.after if is_last else [],
        origins,
    )


def check_alignment(backbone: Backbone, name: str) -> None:
    """Every node can be brought to every later one.

    Raises:
        ConfigError: it cannot; the message names both nodes and their shapes.
    """
    for j, target in enumerate(backbone.shapes):
        for i, source in enumerate(backbone.shapes[:j]):
            try:
                strides(source, target)
            except ConfigError:
                raise ConfigError(
                    f"cell {name!r}: node {i} has shape {source} (channels, height, width) and node {j} {target}: no stride "
                    "leads from one size to the other, so no edge can join them. Sizes must stay or shrink by whole "
                    "factors: use padding in the convolutions of this stage, or name smaller parts in cells="
                ) from None


def copies(backbone: Backbone, branches: int) -> Iterable[list[Step]]:
    """Steps of every branch: the seed's weights in the first, fresh ones in the others, so that they differ."""
    yield backbone.steps
    for _ in range(branches - 1):
        steps = copy.deepcopy(backbone.steps)
        for step in steps:
            step.conv.reset_parameters()
        yield steps
