"""Where a run is, and what it ends with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass
class RunState:
    """Where a run is; everything that a checkpoint must hold, besides weights and optimizers.

    Attributes:
        phase, epoch: the next epoch to train; after the last phase, `phase` is the number of phases.
        structures: what each finished search stage has found (`arch_structure`).
        best: weights of the best fine-tuned epoch by the val split, or None.
        best_val: its figure of merit.
        history: one record per epoch.
        seconds: spent so far.
    """

    phase: int = 0
    epoch: int = 0
    structures: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    best_val: float = -math.inf
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class RunResult:
    """A finished run: the trained network, its figures on val and test, and how it came to be."""

    network: nn.Module
    classes: int
    structures: list[dict[str, Any]]
    val: float
    test: float
    history: list[dict[str, Any]]
    seconds: float
