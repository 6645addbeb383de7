"""How is a NASB search set up? Operations kept per node, nodes per cell, branches, candidates; presets V1 to V5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nasopt.errors import ConfigError, nearest
from nasopt.methods.nasb.candidates import CANDIDATES, IDENTITY, ZERO, check_candidates
from nasopt.methods.nasb.cell import check_branches


@dataclass(frozen=True)
class Settings:
    """Everything that is chosen before a search.

    Attributes:
        keep: operations kept for every node.
        keep_output: operations kept for the last node of a cell.
        nodes: nodes per cell; None: as many as the named stages have. Stages that follow each other are regrouped.
        branches: parallel copies of every cell.
        candidates: names of operations.

    Raises:
        ConfigError: a number or a name is not usable.
    """

    keep: int = 1
    keep_output: int = 1
    nodes: int | None = None
    branches: int = 1
    candidates: tuple[str, ...] = tuple(CANDIDATES)

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", check_candidates(self.candidates))
        check_branches(self.branches)
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
            if value > least:
                raise ConfigError(
                    f"{name}={value} operations per node, but a node with a single edge has only {least} candidates besides "
                    f"'zero': lower {name}, or name more candidates"
                )


_WITHOUT_IDENTITY = tuple(name for name in CANDIDATES if name != IDENTITY)

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
    if preset not in PRESETS:
        hint = nearest(preset, PRESETS) if isinstance(preset, str) else ""
        raise ConfigError(f"unknown preset {preset!r}: known are {', '.join(PRESETS)}.{hint}")
    if keep is not None and keep_output is None:
        keep_output = keep
    given: dict[str, Any] = {"keep": keep, "keep_output": keep_output, "nodes": nodes, "branches": branches}
    if candidates is not None:
        given["candidates"] = candidates if isinstance(candidates, str) else _names(candidates)
    return replace(PRESETS[preset], **{name: value for name, value in given.items() if value is not None})


def _names(candidates: Any) -> tuple[str, ...]:
    if not isinstance(candidates, Sequence) or not all(isinstance(name, str) for name in candidates):
        raise ConfigError(
            f"candidates must be a sequence of names, got {candidates!r}: known are {', '.join(CANDIDATES)}"
        )
    return tuple(candidates)
