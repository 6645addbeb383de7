"""Parts: operations of a TFLite file that a layer becomes, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

GIVEN = -1
"""As a read: what the layer reads."""
FLOAT = 4
"""Bytes of an element between DEQUANTIZE and QUANTIZE."""


@dataclass(frozen=True)
class Part:
    """Some operations of a file whose last one has a result that needs memory.

    Attributes:
        kinds: of the operations.
        elements: of the result; None: as many as the layer's own result has.
        width: of an element [B]; more where there are more elements than in the layer's own result.
        reads: numbers of earlier parts, or `GIVEN`.
        constants: that only this layer has: how many, beside weights and biases.
        shared: constants by their content: equal ones are one tensor of the file.
        channels: outputs of all layers with weights among the operations, beside the layer's own.
    """

    kinds: tuple[str, ...]
    elements: int | None = None
    width: float = 1
    reads: tuple[int, ...] = (GIVEN,)
    constants: int = 0
    shared: tuple[Hashable, ...] = ()
    channels: int = 0


def part(kinds: str, *reads: int, elements: int | None = None, width: int = 1, constants: int = 0) -> Part:
    """A part by the names of its operations, with what they are known to need.

    Args:
        kinds: names with spaces between them.
        reads: numbers of earlier parts, or `GIVEN`; what the layer reads, if left out.
        elements, width: as in `Part`.
        constants: beside the new orders and shapes of its operations.
    """
    names = tuple(kinds.split())
    own = sum(name == "TRANSPOSE" or (name == "RESHAPE" and elements is None) for name in names)
    shared = (name for name in names if name == "MEAN" or (name == "RESHAPE" and elements is not None))
    return Part(names, elements, width, reads or (GIVEN,), constants + own, tuple((name, elements) for name in shared))


Lowering = Callable[[Any, Tensor], list[Part]]
"""`(layer or None, what it reads) -> parts`."""


def moved(part: Part, by: int) -> Part:
    """The part behind (or before) so many others."""
    return replace(part, reads=tuple(max(read + by, GIVEN) for read in part.reads))
