"""Which tasks are there? One entry each."""

from __future__ import annotations

from benchmarks_mlperf_tiny import image_classification
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.task import Task
from nasopt.errors import nearest

TASKS: dict[str, Task] = {task.name: task for task in (image_classification.TASK,)}


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        BenchmarkError: unknown name; the message lists the known ones.
    """
    if name not in TASKS:
        raise BenchmarkError(f"unknown task {name!r}: known are {', '.join(TASKS)}.{nearest(name, TASKS)}")
    return TASKS[name]
