"""Joint training steps: what surrounds a forward pass of a search model inside `DistributedDataParallel`.

Three things differ from an ordinary network:

- Branches that are not drawn, and halves that are frozen, get no gradient, but DDP waits for one of every parameter. So all
  parameters join the graph of every output, through a zero without gradient. This needs no search for unused parameters,
  and it also brings the gradients of the regularizer, which is computed outside of DDP, to DDP in the same backward pass.
- What is drawn must be the same in all processes, whatever the state of their generators: the first process draws.
- Statistics of norms are those of each process's share of the batch. DDP sends those of the first process to all others before
  a forward pass; here they are sent behind it, too, so that every process would export the same network at any time.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree

from nasopt.distributed.check import check_structure
from nasopt.errors import ConfigError
from nasopt.uncompiled import uncompiled


def active_ddp() -> DistributedDataParallel | None:
    """The `DistributedDataParallel` whose forward pass is running, or None."""
    if not dist.is_available() or not dist.is_initialized():
        return None
    return _active_ddp()


@uncompiled
def _active_ddp() -> DistributedDataParallel | None:
    return DistributedDataParallel._active_ddp_module


def drawn_once(draw: Tensor) -> Tensor:
    """A random tensor as the first process has drawn it; outside of DDP the tensor itself. In place.

    Shape and dtype must be the same in all processes, the device that of the parameters.
    """
    ddp = active_ddp()
    if ddp is not None:
        _broadcast(draw, ddp)
    return draw


@uncompiled
def _broadcast(tensor: Tensor, ddp: DistributedDataParallel) -> None:
    if dist.get_world_size(ddp.process_group) > 1:
        dist.broadcast(tensor, dist.get_global_rank(ddp.process_group, 0), group=ddp.process_group)


class JointSteps:
    """The steps of one search model inside one `DistributedDataParallel`.

    Args:
        model: the search model, `ddp.module` or a part of it.
        ddp: which runs its forward pass for the first time.

    Raises:
        ConfigError: the processes hold models that differ in more than values; or DDP was told `static_graph=True`.
    """

    def __init__(self, model: nn.Module, ddp: DistributedDataParallel) -> None:
        if ddp.static_graph:
            raise ConfigError(
                "DistributedDataParallel(static_graph=True) reduces for ever what got gradients in the first step, but a search "
                "draws other branches in every step: leave static_graph out"
            )
        check_structure(model, ddp.process_group)
        self._ddp = weakref.ref(ddp)
        known = {id(p) for p in _reduced_by(ddp)}
        ignored = {id(p) for name, p in ddp.module.named_parameters() if name in ddp.parameters_to_ignore}
        self._parameters = [p for p in model.parameters() if id(p) in known]
        self._unknown = [(name, p) for name, p in model.named_parameters() if id(p) not in known | ignored]

    def belong_to(self, ddp: DistributedDataParallel) -> bool:
        """Whether these are the steps inside `ddp`."""
        return self._ddp() is ddp

    @property
    def ddp(self) -> weakref.ref[DistributedDataParallel]:
        """Inside of which they are."""
        return self._ddp

    def check_trainable(self) -> None:
        """Every parameter that takes gradients is known to DDP.

        Raises:
            ConfigError: one is not: the processes would part company.
        """
        late = next((name for name, p in self._unknown if p.requires_grad), None)
        if late is not None:
            raise ConfigError(
                f"the parameter {late!r} takes gradients, but was frozen when DistributedDataParallel was built, so its "
                "gradients would stay within each process. Build DistributedDataParallel before freeze_arch() and "
                "freeze_net(), or build it anew after unfreezing"
            )

    @uncompiled
    def finish(self, model: nn.Module, output: Any) -> Any:
        """The output of a forward pass, with all parameters in its graph; the same statistics in all processes."""
        ddp = self._ddp()
        assert ddp is not None
        if model.training and ddp.broadcast_buffers:
            _share_statistics(model, ddp)
        if not torch.is_grad_enabled() or not self._parameters:
            return output
        zero = self._zero()
        return pytree.tree_map(
            lambda x: x + zero.to(x) if isinstance(x, Tensor) and x.is_floating_point() else x, output
        )

    def _zero(self) -> Tensor:
        frozen = [p for p in self._parameters if not p.requires_grad]
        # DDP waits for those that were frozen after it was built as well, and a graph holds only what takes gradients.
        for p in frozen:
            p.requires_grad_(True)
        try:
            return _Zero.apply(*self._parameters)
        finally:
            for p in frozen:
                p.requires_grad_(False)


def _reduced_by(ddp: DistributedDataParallel) -> list[Tensor]:
    """Parameters that took gradients when DDP was built."""
    every = list(ddp.module.parameters())
    if ddp._get_ddp_logging_data().get("num_parameter_tensors") == len(every):
        return every
    return [p for bucket in ddp.reducer._get_zeros_like_grad_buckets() for p in bucket.parameters()]


class _Zero(torch.autograd.Function):
    """`(parameters) -> 0`, without gradient to any of them."""

    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> Tensor:
        ctx.parameters = parameters
        return torch.zeros((), device=parameters[0].device)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        # This runs before the first parameter is ready, so the callback stands before that in which DDP writes gradients.
        _at_the_end(lambda: _keep_none(ctx.parameters))
        return (None,) * len(ctx.parameters)


def _keep_none(parameters: tuple[Tensor, ...]) -> None:
    """Where a backward pass brought no gradient, DDP is about to write zeros, which momentum and decay would act on."""
    without = [p for p in parameters if p.grad is None]

    def forget() -> None:
        for p in without:
            p.grad = None

    _at_the_end(forget)


def _at_the_end(callback: Any) -> None:
    torch.autograd.Variable._execution_engine.queue_callback(callback)  # type: ignore[attr-defined]


@torch.no_grad()
def _share_statistics(model: nn.Module, ddp: DistributedDataParallel) -> None:
    groups: dict[Any, list[Tensor]] = {}
    for buffer in model.buffers():
        if buffer.is_floating_point():
            groups.setdefault((buffer.device, buffer.dtype), []).append(buffer)
    for buffers in groups.values():
        flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
        _broadcast(flat, ddp)
        for buffer, values in zip(buffers, flat.split([buffer.numel() for buffer in buffers])):
            # Not a change that autograd should see: norms keep their statistics for the backward pass, and do not use them.
            buffer.data.copy_(values.view_as(buffer))
