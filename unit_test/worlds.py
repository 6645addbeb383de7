"""Worlds: several processes on this machine that know each other, as `torchrun` starts them, without its start-up time."""

from __future__ import annotations

import datetime
import io
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import distributed as dist

# One process imports torch, once; all others are forked from it before they start a thread.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["nasopt"])


class World:
    """Processes of one gloo group, started once for any number of calls; leave it as a context manager."""

    def __init__(self, count: int = 2) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._pools = [ProcessPoolExecutor(1, mp_context=_CONTEXT) for _ in range(count)]
        path = Path(self._folder.name) / "rendezvous"
        self._all([pool.submit(_enter, path, rank, count) for rank, pool in enumerate(self._pools)])

    def run(self, work: Callable[..., Any], *args: Any) -> list[Any]:
        """What `work(rank, count, *args)` returns in each process; `work` is a function of a module."""
        count = len(self._pools)
        found = self._all([pool.submit(_work, work, rank, count, args) for rank, pool in enumerate(self._pools)])
        return [torch.load(io.BytesIO(file), weights_only=False) for file in found]

    @staticmethod
    def _all(futures: list[Future[Any]]) -> list[Any]:
        return [future.result() for future in futures]

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self._all([pool.submit(dist.destroy_process_group) for pool in self._pools])
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)
        self._folder.cleanup()


def _enter(path: Path, rank: int, count: int) -> None:
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=count, timeout=timeout)


def _work(work: Callable[..., Any], rank: int, count: int, args: tuple[Any, ...]) -> bytes:
    file = io.BytesIO()
    torch.save(work(rank, count, *args), file)
    return file.getvalue()
