"""`Deployment`: the RAM and flash that a network needs in a runtime, and whether a chip has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nasopt.cost.metrics import runtime_flash, runtime_memory
from nasopt.cost.network import NetworkCalls
from nasopt.cost.runtime import Runtime
from nasopt.cost.targets import Target


@dataclass(frozen=True)
class Deployment:
    """What a network needs in a runtime.

    Attributes:
        runtime: which.
        ram, flash: for activations and the runtime's own data; for weights and code [B].
    """

    runtime: Runtime
    ram: int
    flash: int

    def plain(self, targets: Sequence[Target]) -> dict[str, Any]:
        """As a dict of plain values, with `"fits"` by target."""
        fits = {target.name: self.fits(target) for target in targets}
        return {"name": self.runtime.name, "ram": self.ram, "flash": self.flash, "fits": fits}

    def fits(self, target: Target) -> bool | None:
        """Whether a chip has enough of both; None where it is not known how much it has."""
        if (target.ram_bytes and self.ram > target.ram_bytes) or (
            target.flash_bytes and self.flash > target.flash_bytes
        ):
            return False
        return True if target.ram_bytes and target.flash_bytes else None

    def __str__(self) -> str:
        return f"in {self.runtime.name}: {self.ram:,} B of RAM, {self.flash:,} B of flash"

    def verdict(self, target: Target) -> str:
        """Whether it fits, in words."""
        fits = self.fits(target)
        parts = []
        for what, needed, there in (("RAM", self.ram, target.ram_bytes), ("flash", self.flash, target.flash_bytes)):
            if there and (fits is not False or needed > there):
                parts.append(f"{needed:,} of {there:,} B {what}")
        start = {True: "fits", False: "does not fit", None: "may fit"}[fits]
        return f"{start} {target.name}: {', '.join(parts) or 'its memory is not known'}"


def deployment_of(calls: NetworkCalls, runtime: Runtime) -> Deployment:
    """What a network needs."""
    return Deployment(runtime, int(calls.total(runtime_memory(runtime))), int(calls.total(runtime_flash(runtime))))
