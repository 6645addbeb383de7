"""`Target`, an embedded platform: frozen constants, the kinds of layers it has a law for, and one integer kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nasopt.checked import checked_fields
from nasopt.cost.targets.posterior import Posterior
from nasopt.cost.targets.rows import KIND_CODES
from nasopt.cost.widths import Runs
from nasopt.errors import ConfigError, nearest
from nasopt.graph.layer_shape import LayerShape

Status = Literal["priced", "free", "unpriced"]

_FASTEST = 10_000
"""No clock is faster [MHz]: it is given in Hz."""


@checked_fields
@dataclass(frozen=True)
class Target:
    """An embedded platform: a chip at one clock with one software stack, running int8 networks, batch 1.

    Attributes:
        name: how users, tables and errors call it.
        summary: chip, cores and software stack in one line.
        clock_mhz: clock of the unit whose cycles the kernel counts [MHz].
        cores: cores or engines that share the work.
        tile_in, tile_out: input and output channels (of one group) that the hardware takes at once. Interpolation
            knots lie at their multiples. 1 where the law has no steps.
        ram_bytes, flash_bytes: memory for activations and for weights [B]; 0 where there is none of that sort.
        active_power_mw: mean power while a network runs [mW]; 0 where nobody published one.
        priced: kinds (keys of `KIND_CODES`) that the kernel has a law for.
        free: kinds that cost nothing here, on purpose. A kind in neither set is *unpriced*: asking for it raises.
        weight_bits, activation_bits: widths of quantised layers that run here; floats are deployed in 8 bits.
        kernel: `cycles(row, law) -> int64` of a `Row`, compiled by numba with the signature `KERNEL_SIGNATURE`.
        law: int64 constants handed to the kernel as its last argument.
        provenance: where the law and its constants come from, and how well they hold.
        uncertainty: how far off the law may be, where its prices were fitted to timings of the user's own.
    """

    name: str
    summary: str
    clock_mhz: float
    kernel: Callable[..., Any]
    law: tuple[int, ...]
    priced: frozenset[str]
    provenance: str
    free: frozenset[str] = frozenset()
    cores: int = 1
    tile_in: int = 1
    tile_out: int = 1
    ram_bytes: int = 0
    flash_bytes: int = 0
    active_power_mw: float = 0.0
    weight_bits: tuple[int, ...] = (8,)
    activation_bits: tuple[int, ...] = (8,)
    uncertainty: Posterior | None = None

    def __post_init__(self) -> None:
        for label, kinds in (("priced", self.priced), ("free", self.free)):
            for kind in sorted(kinds - KIND_CODES.keys()):
                raise ConfigError(
                    f"target {self.name!r}: {label} kind {kind!r} does not exist, so no layer would ever match it: "
                    f"use {', '.join(KIND_CODES)}.{nearest(kind, KIND_CODES)}"
                )
        if both := sorted(self.priced & self.free):
            raise ConfigError(f"target {self.name!r}: {', '.join(both)} cannot be priced and free: choose one")
        if not self.name.strip() or not self.name.isprintable() or self.name != self.name.strip():
            raise ConfigError(f"a target's name is {self.name!r}: give printable text without blanks around it")
        if not 0 < self.clock_mhz <= _FASTEST:
            what = "a positive clock [MHz]" if self.clock_mhz <= 0 else f"it in MHz, at most {_FASTEST:,}"
            raise ConfigError(f"target {self.name!r}: clock_mhz is {self.clock_mhz!r}: give {what}")
        for label in ("ram_bytes", "flash_bytes", "active_power_mw"):
            if getattr(self, label) < 0:
                raise ConfigError(
                    f"target {self.name!r}: {label} is {getattr(self, label)!r}: give 0 where it is not known or there is none"
                )
        if self.tile_in < 1 or self.tile_out < 1:
            raise ConfigError(
                f"target {self.name!r}: tiles are {self.tile_in} and {self.tile_out} channels: give at least 1 each"
            )

        for label in ("weight_bits", "activation_bits"):
            widths = getattr(self, label)
            if not isinstance(widths, tuple) or not widths or not all(type(b) is int and 1 <= b <= 16 for b in widths):
                raise ConfigError(f"target {self.name!r}: {label} is {widths!r}: give a tuple of widths, e.g. (4, 8)")

    @property
    def runs(self) -> Runs:
        """Widths that run here."""
        return Runs(self.name, self.weight_bits, self.activation_bits)

    def lacks(self, shape: LayerShape) -> str:
        """What of the widths of a quantised layer does not run here, in words; empty where all do."""
        return "" if shape.bias_bits is None else self.runs.lacks([shape.weight_bits], [shape.activation_bits])

    def status(self, kind: str) -> Status:
        """Whether a layer of this kind is priced, free on purpose, or has no law here."""
        if kind in self.priced:
            return "priced"
        return "free" if kind in self.free else "unpriced"

    def law_array(self) -> NDArray[np.int64]:
        """`law` as the array that the kernel takes: int64, shape `(len(law),)`."""
        return np.asarray(self.law, dtype=np.int64)

    def milliseconds(self, cycles: Any) -> Any:
        """Time of so many cycles [ms]; numbers, arrays or tensors."""
        return cycles / (self.clock_mhz * 1e3)
