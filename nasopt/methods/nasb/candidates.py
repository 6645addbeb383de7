"""Candidate operations on the edges of a cell, and how a search is set up: one table of each; presets V1 to V5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from nasopt.errors import ConfigError, nearest
from nasopt.methods.nasb.main_path import NodeShape
from nasopt.nn import BinaryActivation, BinaryConv2d, CellPool2d, LightResidual, Zero

ZERO, IDENTITY = "zero", "identity"


@dataclass(frozen=True)
class Candidate:
    """One operation.

    Attributes:
        name: as in `candidates=`.
        kind: what it is; `"zero"` and `"identity"` have no layers, `"light"` has few real weights.
        kernel, dilation: of a convolution.
    """

    name: str
    kind: Literal["zero", "identity", "max", "average", "conv", "light"]
    kernel: int = 1
    dilation: int = 1


# The source gives no dilation rate; 2 is the least that differs from a plain convolution.
_DILATION = 2

CANDIDATES: dict[str, Candidate] = {
    candidate.name: candidate
    for candidate in (
        Candidate(ZERO, "zero"),
        Candidate("avg_pool_3x3", "average"),
        Candidate("max_pool_3x3", "max"),
        Candidate(IDENTITY, "identity"),
        *(Candidate(f"conv_{k}x{k}", "conv", k) for k in (1, 3, 5)),
        *(Candidate(f"dilated_conv_{k}x{k}", "conv", k, _DILATION) for k in (1, 3, 5)),
        Candidate("light_skip", "light"),
    )
}

USUAL: tuple[str, ...] = tuple(name for name in CANDIDATES if name != "light_skip")
"""The candidates of the source."""


def check_candidates(names: Sequence[str]) -> tuple[str, ...]:
    """The names in the order of the table.

    Raises:
        ConfigError: a name is unknown or given twice, or nothing but zero is left.
    """
    if isinstance(names, str):
        names = (names,)
    for name in names:
        if name not in CANDIDATES:
            hint = nearest(name, CANDIDATES) if isinstance(name, str) else ""
            raise ConfigError(f"unknown candidate {name!r}: known are {', '.join(CANDIDATES)}.{hint}")
    if len(set(names)) < len(names):
        raise ConfigError(f"candidates holds a name twice: {', '.join(names)}")
    if names and not set(names) - {ZERO}:
        raise ConfigError("candidates must name at least one operation besides 'zero', which is never kept")
    return tuple(name for name in CANDIDATES if name in names)


def make_operation(name: str, source: NodeShape, target: NodeShape) -> nn.Module:
    """The layers of a candidate between nodes of these shapes, each with a norm of its own but zero and identity.

    A convolution takes the source itself and strides to the target; a pooling takes a source that has been aligned.
    """
    candidate = CANDIDATES[name]
    if candidate.kind in ("zero", "identity"):
        return Zero(*target) if candidate.kind == "zero" else nn.Identity()
    if candidate.kind == "light" and source == target:
        return nn.Identity()
    norm = nn.BatchNorm2d(target[0])
    if candidate.kind == "light":
        return nn.Sequential(LightResidual(source[0], target[0], strides(source, target)), norm)
    if candidate.kind == "conv":
        reach = candidate.dilation * (candidate.kernel // 2)
        stride = strides(source, target)
        conv = BinaryConv2d(source[0], target[0], candidate.kernel, stride, reach, candidate.dilation)
        return nn.Sequential(BinaryActivation(), conv, norm)
    return nn.Sequential(CellPool2d("max" if candidate.kind == "max" else "average"), norm)


def needs_alignment(name: str) -> bool:
    """Whether a candidate takes a source that has been brought to the shape of its target."""
    return CANDIDATES[name].kind not in ("conv", "zero", "light")


def strides(source: NodeShape, target: NodeShape) -> tuple[int, int]:
    """Strides along height and width from one node to the other.

    Raises:
        ConfigError: no stride of a padded convolution leads from one size to the other.
    """
    found = tuple(-(-source[dim] // target[dim]) for dim in (1, 2))
    if any(-(-source[dim] // stride) != target[dim] for dim, stride in zip((1, 2), found)):
        raise ConfigError(f"{source} cannot be brought to {target} (channels, height, width)")
    return found[0], found[1]


@dataclass(frozen=True)
class Settings:
    """Everything that is chosen before a search.

    Attributes:
        keep: operations kept for every node.
        keep_output: operations kept for the last node of a cell.
        nodes: nodes per cell; None: as many as the named stages have. Stages that follow each other are regrouped.
        branches: parallel copies of every cell.
        candidates: names of operations; none: cells of the backbone alone.

    Raises:
        ConfigError: a number or a name is not usable.
    """

    keep: int = 1
    keep_output: int = 1
    nodes: int | None = None
    branches: int = 1
    candidates: tuple[str, ...] = USUAL

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", check_candidates(self.candidates))
        if isinstance(self.branches, bool) or not isinstance(self.branches, int) or self.branches < 1:
            raise ConfigError(f"branches must be an int >= 1, got {self.branches!r}")
        for name in ("keep", "keep_output"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be an int >= 1, got {value!r}")
        if self.nodes is not None and (
            isinstance(self.nodes, bool) or not isinstance(self.nodes, int) or self.nodes < 2
        ):
            raise ConfigError(f"nodes must be an int >= 2 (input and output of a cell), got {self.nodes!r}")
        least = sum(name != ZERO for name in self.candidates)
        for name, value in (("keep", self.keep), ("keep_output", self.keep_output)):
            # The node after the input has one edge.
            if self.candidates and value > least:
                raise ConfigError(
                    f"{name}={value} operations per node, but a node with a single edge has only {least} candidates besides "
                    f"'zero': lower {name}, or name more candidates"
                )


_WITHOUT_IDENTITY = tuple(name for name in USUAL if name != IDENTITY)

PRESETS: dict[str, Settings] = {
    "NASB": Settings(),
    "V1": Settings(nodes=9),
    "V2": Settings(keep_output=4),
    "V3": Settings(branches=2),
    "V4": Settings(keep=4, keep_output=4, candidates=_WITHOUT_IDENTITY),
    "V5": Settings(keep=6, keep_output=8),
}


def make_settings(
    preset: str, keep: int | None, keep_output: int | None, nodes: int | None, branches: int | None, candidates: Any
) -> Settings:
    """The preset, with what is given in place of its values; `keep` without `keep_output` stands for both.

    Raises:
        ConfigError: an unknown preset, or a value that is not usable.
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        hint = nearest(preset, PRESETS) if isinstance(preset, str) else ""
        raise ConfigError(f"unknown preset {preset!r}: known are {', '.join(PRESETS)}.{hint}")
    if keep is not None and keep_output is None:
        keep_output = keep
    given: dict[str, Any] = {"keep": keep, "keep_output": keep_output, "nodes": nodes, "branches": branches}
    if candidates is not None:
        given["candidates"] = candidates if isinstance(candidates, str) else _names(candidates)
    if given.get("candidates") == ():
        raise ConfigError("candidates is empty, so there is nothing to search: binary_cells makes backbones alone")
    return replace(PRESETS[preset], **{name: value for name, value in given.items() if value is not None})


def _names(candidates: Any) -> tuple[str, ...]:
    if not isinstance(candidates, Sequence) or not all(isinstance(name, str) for name in candidates):
        raise ConfigError(
            f"candidates must be a sequence of names, got {candidates!r}: known are {', '.join(CANDIDATES)}"
        )
    return tuple(candidates)
