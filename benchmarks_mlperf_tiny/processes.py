"""One run by several processes, started by torchrun: each trains on a share of every batch; the first one writes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks_mlperf_tiny.errors import BenchmarkError
from nasopt.distributed import SynchronisedNorms

# Commands that start processes of their own.
_ALONE = ("sweep", "job")


@contextlib.contextmanager
def joined(command: str, device: str | None) -> Iterator[bool]:
    """Join the other processes that torchrun has started, if it has, for the duration of the block.

    Yields:
        Whether this process has a part in the command: all in a search, the first one in everything else.

    Raises:
        BenchmarkError: the command cannot run under torchrun.
    """
    world, own = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world == 1 or command != "search":
        if world > 1 and command in _ALONE:
            raise BenchmarkError(
                f"`{command}` under torchrun with {world} processes: it starts processes of its own. Start it without torchrun "
                "(python -m benchmarks_mlperf_tiny ...); --jobs says how many run at a time"
            )
        yield own == 0
        return
    if device is not None and torch.device(device).type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", own)))
    dist.init_process_group()
    try:
        yield True
    finally:
        dist.destroy_process_group()


def count() -> int:
    """Processes in this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process reads checkpoints, writes files and shows progress."""
    return rank() == 0


def from_first(value: Any) -> Any:
    """What the first process holds, plain values and tensors."""
    if count() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, 0)
    return held[0]


def share(batch: Tensor) -> Tensor:
    """This process's part of a batch, which all hold.

    Raises:
        BenchmarkError: there are more processes than examples.
    """
    if len(batch) < count():
        raise BenchmarkError(
            f"a batch of {len(batch)} examples cannot be divided among {count()} processes: take a larger --batch-size, or start "
            "fewer processes"
        )
    return batch[rank() :: count()]


def weight(batch: Tensor) -> float:
    """What the mean loss of this process's share of a batch counts in the mean over processes; 1 if all shares are equal."""
    return len(share(batch)) * count() / len(batch)


def mean(value: Tensor) -> float:
    """Mean over all processes of a scalar."""
    if count() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return float(value) / count()


def parallel(model: nn.Module) -> nn.Module:
    """The model, which averages its gradients with the other processes in every backward pass."""
    return DistributedDataParallel(model) if count() > 1 else model


def whole_batch_norms() -> contextlib.AbstractContextManager[Any]:
    """Norms in batch mode see the whole batch, so that a network does not depend on the number of processes."""
    return SynchronisedNorms() if count() > 1 else contextlib.nullcontext()
