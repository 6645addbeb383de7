"""The mode of torch that a trace runs in, and how it is left while nodes are evaluated."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode

_isinstance = builtins.isinstance


class TracingMode(TorchFunctionMode):
    """Base of the mode that makes nodes of calls; see `nasopt.graph.patches.FunctionMode`."""


@contextmanager
def without_mode() -> Iterator[None]:
    """While nodes are evaluated: the mode off the stack (in its own calls it is off already), the plain isinstance."""
    patched = builtins.isinstance
    mode = torch._C._pop_torch_function_stack() if torch._C._len_torch_function_stack() else None
    if mode is not None and not _isinstance(mode, TracingMode):
        torch._C._push_on_torch_function_stack(mode)
        mode = None
    builtins.isinstance = _isinstance
    try:
        yield
    finally:
        builtins.isinstance = patched
        if mode is not None:
            torch._C._push_on_torch_function_stack(mode)
