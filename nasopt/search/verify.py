"""Does the exported network compute what the search model computes? One run of both in eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nasopt.errors import ExportError
from nasopt.graph.example import Example

# Largest difference, relative to the largest output; sums in another order differ by this much at most.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}


def verify_export(search: nn.Module, network: nn.Module, example: Example) -> None:
    """Compare outputs of `search` and `network` on random inputs of the example's shapes.

    Raises:
        ExportError: they differ by more than rounding; names the largest difference.
    """
    # Of the network alone: architecture parameters may have a dtype of their own.
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    generator = torch.Generator().manual_seed(0)

    def random_like(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.to(device)
        return torch.randn(tensor.shape, generator=generator).to(device=device, dtype=dtype)

    inputs = example.map_tensors(random_like)
    if device.type == "meta":
        return
    wanted = _run(search, inputs, example)
    found = _run(network, inputs, example)
    if len(wanted) != len(found):
        raise ExportError(f"the exported network has {len(found)} output tensors, the search model {len(wanted)}")
    for i, (left, right) in enumerate(zip(wanted, found)):
        if left.shape != right.shape:
            raise ExportError(f"output {i}: shape {tuple(right.shape)} where the search model has {tuple(left.shape)}")
        if not bool(torch.isfinite(left).all()):
            raise ExportError(
                f"output {i} of the search model itself is not finite in eval mode, so the export cannot be compared: "
                "check weights and norm statistics, or call arch_export(verify=False)"
            )
        if left.numel() == 0:
            continue
        scale = float(left.abs().max()) or 1.0
        difference = float((left.double() - right.double()).abs().max()) / scale
        tolerance = _TOLERANCE.get(left.dtype, 0.0)
        if not difference <= tolerance:
            raise ExportError(
                f"output {i} of the exported network differs from the search model's by {difference:.2e} of its largest "
                f"value (allowed {tolerance:.0e}). Random numbers in eval mode are one possible reason: then call "
                "arch_export(verify=False). Otherwise some operation of the model is misunderstood: please report it "
                "with explain()"
            )


def _run(model: nn.Module, inputs: tuple[Any, ...], example: Example) -> list[Tensor]:
    with eval_mode(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        arguments = dict(zip(example.traced, inputs))
        leaves = pytree.tree_leaves(model(**arguments))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode, and every module back into its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
