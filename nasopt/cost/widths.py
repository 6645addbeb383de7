"""Widths in bits that a platform runs, and the check that a network asks for no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nasopt.errors import ConfigError


@dataclass(frozen=True)
class Runs:
    """What a platform runs.

    Attributes:
        name: of the target or runtime.
        weights, activations: widths in bits; empty: any.
    """

    name: str
    weights: tuple[int, ...] = ()
    activations: tuple[int, ...] = ()

    def lacks(self, weights: Sequence[int], activations: Sequence[int]) -> str:
        """What of these widths it does not run, in words; empty where it runs all. Floats are deployed in 8 bits."""
        lists = (("weights", self.weights, weights), ("activations", self.activations, activations))
        parts = []
        for what, runs, wanted in lists:
            missing = [bits for bits in wanted if runs and bits not in (*runs, 32)]
            if missing:
                parts.append(f"{what} of {_list(runs)} bits, not {_list(missing)}")
        return f"{self.name} runs {' and '.join(parts)}" if parts else ""

    def check(self, layer: str, weights: Sequence[int], activations: Sequence[int]) -> None:
        """Raise a `ConfigError` where a quantised layer has, or may get, a width that does not run."""
        if lacks := self.lacks(weights, activations):
            raise ConfigError(
                f"layer {layer!r}: {lacks}, so what it costs there is unknown. Give the precision widths that run, or, where "
                "kernels of yours run them, say so: dataclasses.replace(get_target(...), weight_bits=(...))"
            )


def _list(widths: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(widths)))
