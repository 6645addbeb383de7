"""A task that trains in milliseconds: two noisy patterns, a network with one hidden convolution."""

from __future__ import annotations

import numpy as np
from torch import nn

from benchmarks_mlperf_tiny.augment import affine_jitter
from benchmarks_mlperf_tiny.config import RunConfig, make_config
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.data.splits import TaskData, make_split, stratified_parts
from benchmarks_mlperf_tiny.tasks import DataSet, Recipe, Task, has_taps


def load(_options: DataOptions) -> TaskData:
    """160 images of 1x8x8 with a bright row or a bright column."""
    rng = np.random.default_rng(0)
    y = np.arange(160) % 2
    x = rng.normal(size=(160, 1, 8, 8)).astype(np.float32)
    for image, label in zip(x[:, 0], y, strict=True):
        place = rng.integers(8)
        if label:
            image[place] += 2
        else:
            image[:, place] += 2
    parts = stratified_parts(y, (0.5, 0.25, 0.25))
    train, val, test = (make_split(x, y, part) for part in parts)
    return TaskData("patterns", train, val, test, 2, synthetic=True, augment=affine_jitter(5.0, 0.05))


def build_seed(num_classes: int) -> nn.Module:
    """Convolutions with norm and dropout: everything that has state or draws numbers."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )


RECIPE = Recipe(warmup=1, search=2, finetune=2, batch_size=16, lr=1e-2, arch_lr=1e-1, strength=1.0, norm_momentum=0.1)
DATASETS = {"patterns": DataSet(load, RECIPE)}
TASK = Task("tiny", (1, 8, 8), build_seed, DATASETS, where=has_taps)


def config(method: str = "seed", **changes: object) -> RunConfig:
    """Settings of a run on the tiny task."""
    return make_config(TASK, None, method, **changes)
