"""Synchronised batch norms: statistics of the whole batch, of which each process has a share.

`torch.nn.SyncBatchNorm` does this on GPUs only, and is another type of layer. Here the layers stay what they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class SynchronisedNorms(TorchFunctionMode):
    """Within this context, batch norms in train mode use mean and variance over all processes, on any device.

    ```python
    with nasopt.distributed.SynchronisedNorms():
        output = parallel(x)  # a DistributedDataParallel
    ```

    Every process must run the same norms in the same order; shares may differ in size. Running statistics are then those of
    the whole batch, too. Backward passes may lie outside of the context.

    Args:
        group: of processes; None: all.
    """

    def __init__(self, group: Any = None) -> None:
        super().__init__()
        self.group = group

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (
            func is F.batch_norm
            and dist.is_available()
            and dist.is_initialized()
            and dist.get_world_size(self.group) > 1
        ):
            return _batch_norm(self.group, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    group: Any,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """As `torch.nn.functional.batch_norm`; `input` is `(B, C, ...)`.

    Raises:
        ValueError: all processes together have only one value per channel.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    count, mean, variance = _moments(x, group)
    if count <= 1:
        raise ValueError(
            f"batch norm: {count} value per channel in all processes together (input {tuple(input.shape)}), so there is no "
            "variance: take larger batches"
        )
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * (count / (count - 1))).to(running_var.dtype), momentum)
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = (1, -1) + (1,) * (input.dim() - 2)
    return (x * scale.view(shape) + shift.view(shape)).to(input.dtype)


def _moments(x: Tensor, group: Any) -> tuple[int, Tensor, Tensor]:
    """Values per channel, mean `(C,)` and biased variance `(C,)` over all processes, differentiable.

    The moments of the shares are joined, which is exact where a sum of squares would cancel: Chan, Golub and LeVeque,
    "Algorithms for computing the sample variance", 1983.
    """
    channels = x.shape[1]
    dims = [0, *range(2, x.dim())]
    mean = x.mean(dims)
    squares = (x - mean.view(1, -1, *[1] * (x.dim() - 2))).square().sum(dims)
    own = torch.cat([mean, squares, mean.new_tensor([x.numel() // channels])])
    rows = own.new_zeros(dist.get_world_size(group), len(own))
    rows = _Sum.apply(torch.index_add(rows, 0, torch.tensor([dist.get_rank(group)], device=x.device), own[None]), group)
    means, squares, counts = rows[:, :channels], rows[:, channels:-1], rows[:, -1:].detach()
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    variance = (squares + counts * (means - mean).square()).sum(0) / total
    return int(total), mean, variance


class _Sum(torch.autograd.Function):
    """The sum over all processes, and of the gradients of all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None
