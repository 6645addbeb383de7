"""What may stand on an edge of a cell? The ten candidate operations: one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from nasopt.errors import ConfigError, nearest
from nasopt.graph.chain import NodeShape
from nasopt.nn import BinaryActivation, BinaryConv2d, CellPool2d

ZERO, IDENTITY = "zero", "identity"


@dataclass(frozen=True)
class Candidate:
    """One operation.

    Attributes:
        name: as in `candidates=`.
        kind: what it is; `"zero"` and `"identity"` have no layers.
        kernel, dilation: of a convolution.
    """

    name: str
    kind: Literal["zero", "identity", "max", "average", "conv"]
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
    )
}


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
    if not set(names) - {ZERO}:
        raise ConfigError("candidates must name at least one operation besides 'zero', which is never kept")
    return tuple(name for name in CANDIDATES if name in names)


def make_operation(name: str, source: NodeShape, target: NodeShape) -> nn.Module | None:
    """The layers of a candidate between nodes of these shapes, each with a norm of its own; None for zero and identity.

    A convolution takes the source itself and strides to the target; a pooling takes a source that has been aligned.
    """
    candidate = CANDIDATES[name]
    norm = nn.BatchNorm2d(target[0])
    if candidate.kind in ("zero", "identity"):
        return None
    if candidate.kind == "conv":
        reach = candidate.dilation * (candidate.kernel // 2)
        stride = strides(source, target)
        conv = BinaryConv2d(source[0], target[0], candidate.kernel, stride, reach, candidate.dilation)
        return nn.Sequential(BinaryActivation(), conv, norm)
    return nn.Sequential(CellPool2d("max" if candidate.kind == "max" else "average"), norm)


def takes_source(name: str) -> bool:
    """Whether a candidate takes the source node itself, without alignment."""
    return CANDIDATES[name].kind == "conv"


def strides(source: NodeShape, target: NodeShape) -> tuple[int, int]:
    """Strides along height and width from one node to the other.

    Raises:
        ConfigError: no stride of a padded convolution leads from one size to the other.
    """
    found = tuple(-(-source[dim] // target[dim]) for dim in (1, 2))
    if any(-(-source[dim] // stride) != target[dim] for dim, stride in zip((1, 2), found)):
        raise ConfigError(f"{source} cannot be brought to {target} (channels, height, width)")
    return found[0], found[1]
