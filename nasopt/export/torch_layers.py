"""A found network in torch's own layers: for programs without nasopt, and for converters of other formats."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nasopt.checked import checked
from nasopt.errors import ExportError
from nasopt.export.compare import check_float
from nasopt.export.subject import make_subject, output_tensors
from nasopt.graph.plain import expand_layers


@checked
def to_torch_layers(found: nn.Module, example: Any) -> nn.Module:
    """The network, in eval mode and float32, in which every layer of `nasopt.nn` is written out in torch's layers and functions.

    A multi-head depthwise convolution becomes one convolution per head and maxima of two, a REAF convolution slices, a
    concatenation and a grouped convolution, a binary convolution a float one with two values. The result is compared with
    the network before it is returned.

    ```python
    torch.save(to_torch_layers(model.arch_export(), x), "found.pt")  # loads where torch is installed, without nasopt
    ```

    Args:
        found: what `arch_export()` returned; it stays as it is.
        example: a batch: a tensor, a tuple of tensors for several inputs, or a dict of keyword arguments.

    Raises:
        ConfigError: it does not take the example.
        ExportError: it holds a layer that torch has no operation for (the message names it and what runs it), or the
            result computes something else.
    """
    subject = make_subject(found, example)
    try:
        plain = expand_layers(subject.written)
    except Exception as error:
        raise ExportError(f"the network cannot be written in torch's own layers: {error}") from error
    foreign = sorted({type(m).__name__ for m in plain.modules() if type(m).__module__.startswith("nasopt")})
    if foreign:
        raise ExportError(f"the network holds {', '.join(foreign)}, which cannot be written in torch's own layers")

    def run(tensors: Any) -> list[torch.Tensor]:
        args, kwargs = subject.with_tensors(tensors)
        with torch.no_grad():
            return output_tensors(plain(*args, **kwargs))

    check_float(subject, run, subject.trials(any_batch=True), "the network in torch's own layers")
    return plain
