"""Which tasks are there? One entry each."""

from __future__ import annotations

from benchmarks_mlperf_tiny import anomaly_detection, image_classification, keyword_spotting, visual_wake_words
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.task import Task
from nasopt.errors import nearest

TASKS: dict[str, Task] = {
    module.TASK.name: module.TASK
    for module in (image_classification, keyword_spotting, visual_wake_words, anomaly_detection)
}


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        BenchmarkError: unknown name; the message lists the known ones.
    """
    if name not in TASKS:
        raise BenchmarkError(f"unknown task {name!r}: known are {', '.join(TASKS)}.{nearest(name, TASKS)}")
    return TASKS[name]
