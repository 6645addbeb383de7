"""Several processes on this machine that know each other, as `torchrun` starts them, without its start-up time."""

from __future__ import annotations

import datetime
import io
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

# One process imports torch, once; all others are forked from it before they start a thread.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["nasopt"])


def run_world(work: Callable[..., Any], *args: Any, count: int = 2) -> list[Any]:
    """What `work(rank, count, *args)` returns in each of `count` processes of one gloo group; `work` is a module's function."""
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(count, mp_context=_CONTEXT) as pool:
        path = Path(folder) / "rendezvous"
        futures = [pool.submit(_enter, path, rank, count, work, args) for rank in range(count)]
        return [torch.load(io.BytesIO(future.result()), weights_only=False) for future in futures]


def _enter(path: Path, rank: int, count: int, work: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=count, timeout=timeout)
    try:
        file = io.BytesIO()
        torch.save(work(rank, count, *args), file)
        return file.getvalue()
    finally:
        dist.destroy_process_group()
