"""Parts of integer programs: values, inputs, steps and outputs, as plain numbers and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nasopt.export.integer.arithmetic import Array


@dataclass(frozen=True)
class Value:
    """A tensor of integers.

    Attributes:
        shape: of one sample: that of a batch of one.
        bits: 1 to 16 on a grid, 32 of accumulators.
        low, high: smallest and largest integer that it may hold.
        step: real value of 1; 0 of accumulators, where it depends on the channel.
    """

    shape: tuple[int, ...]
    bits: int
    low: int
    high: int
    step: float

    @property
    def elements(self) -> int:
        """Of one sample."""
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Input:
    """An input of the network, rounded to the grid of `value`; `position` among the arguments."""

    name: str
    position: int
    value: str


@dataclass(frozen=True)
class Step:
    """One operation on integers.

    Attributes:
        kind: name of its kernel.
        inputs: values that it reads.
        output: value that it writes.
        settings: plain numbers and words.
        arrays: weights, biases, multipliers, tables.
        layer: path of the layer that it stems from, or name of the node.
    """

    kind: str
    inputs: tuple[str, ...]
    output: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)
    layer: str = ""


@dataclass(frozen=True)
class Output:
    """An output of the network in real numbers: `clip(sum of scale value, low, high)`, or entries of a table.

    Attributes:
        terms: `(value, scale)`; a scale broadcasts to the shape of one sample.
        low, high: bounds.
        table: real values of `value - first`, of the only term; else None.
        batch_dim: dimension along which samples lie.
    """

    terms: tuple[tuple[str, Array], ...]
    shape: tuple[int, ...]
    low: float = -float("inf")
    high: float = float("inf")
    table: Array | None = None
    first: int = 0
    batch_dim: int = 0
