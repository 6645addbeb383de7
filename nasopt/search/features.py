"""Features of a quantised network: what its quantisation points give in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from nasopt.nn.quantise import Quantise


@contextmanager
def point_features(net: nn.Module, wanted: bool = True) -> Iterator[dict[str, Tensor]]:
    """Collect rounded activations of one forward pass, by path of the point and number of the call; empty if not wanted."""
    found: dict[str, Tensor] = {}
    calls: dict[str, int] = {}

    def keep(name: str) -> Any:
        def hook(point: nn.Module, _: Any, output: Tensor) -> None:
            if point.samples is not None:  # steps are being set: nothing is rounded
                return
            calls[name] = calls.get(name, 0) + 1
            found[f"{name}#{calls[name]}"] = output

        return hook

    points = [(name, point) for name, point in net.named_modules() if wanted and isinstance(point, Quantise)]
    handles = [point.register_forward_hook(keep(name)) for name, point in points]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
