"""Functions that a library keeps whole for torch.fx, and that are looked into all the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import fx

# Modules whose functions are kept whole for torch.fx, which can be followed here.
OPENED = [
    "torchvision.models.swin_transformer",
    "torchvision.models.video.mvit",
    "torchvision.models.video.swin_transformer",
]


@contextmanager
def opened_functions() -> Iterator[None]:
    """Look into functions that a library has given to `fx.wrap` for the sake of a simpler tracer."""
    wrapped = fx._symbolic_trace._wrapped_fns_to_patch
    kept = dict(wrapped)
    for key, namespace in kept.items():
        if namespace.get("__name__") in OPENED:
            del wrapped[key]
    try:
        yield
    finally:
        wrapped.clear()
        wrapped.update(kept)
