"""Benchmark tasks, one entry each in a table: seed network, loss, figure of merit, data sets and training recipes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks_mlperf_tiny.data.images import cifar10, cifar10_12k, cifar10_subset, digits
from benchmarks_mlperf_tiny.data.keywords import spoken_digits, synthetic_words
from benchmarks_mlperf_tiny.data.machines import generated_machines, toycar
from benchmarks_mlperf_tiny.data.people import person_crops, synthetic_figures, visual_wake_words
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.data.speech_commands import speech_commands
from benchmarks_mlperf_tiny.data.splits import Split, TaskData
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.networks import autoencoder, ds_cnn, mobilenet_v1, resnet8
from nasopt import with_candidates
from nasopt.errors import nearest


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train.

    Attributes:
        warmup, search, finetune: epochs of each phase. A plain seed trains for the sum of the three.
        batch_size: examples per step.
        lr: of network parameters (Adam); held in warm-up and search, a cosine to zero in fine-tuning.
        arch_lr: of architecture parameters (Adam); falls to zero in the second half of the search.
        strength: default weight of the relative cost in the search loss.
        norm_momentum: of batch norms, as in PyTorch; the reference's 0.01 fits trainings of many thousand steps.
        budget: limits that take the place of the strength where nothing else is said, for PIT; or None.
    """

    warmup: int
    search: int
    finetune: int
    batch_size: int
    lr: float
    arch_lr: float
    strength: float
    norm_momentum: float = 0.01
    budget: str | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set that a task can use: what reads or generates it, and how to train on it."""

    load: Callable[[DataOptions], TaskData]
    recipe: Recipe


def cross_entropy(outputs: Tensor, _inputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy."""
    return F.cross_entropy(outputs, labels)


def reconstruction_error(outputs: Tensor, inputs: Tensor, _labels: Tensor) -> Tensor:
    """Mean squared error of an auto-encoder [dB^2]."""
    return F.mse_loss(outputs, inputs)


def top1(outputs: Tensor, split: Split) -> float:
    """Share of examples whose largest output is the label."""
    return float((outputs.argmax(1) == split.y).float().mean())


def area_under_curve(scores: Tensor, labels: Tensor) -> float:
    """Probability that an anomaly scores higher than a normal example; ties count half.

    Args:
        scores: `(N,)`.
        labels: `(N,)`, 1 for an anomaly.

    Returns:
        The area under the ROC curve; 0.5 where one of the classes is missing.
    """
    anomalies, normals = scores[labels == 1].double(), scores[labels == 0].double()
    if not len(anomalies) or not len(normals):
        return 0.5
    wins = (anomalies[:, None] > normals).double() + 0.5 * (anomalies[:, None] == normals).double()
    return float(wins.mean())


def auc_of_recordings(outputs: Tensor, split: Split) -> float:
    """AUC of the squared error averaged over all vectors of a recording, as the reference scores."""
    assert split.group is not None
    errors = (outputs - split.x).square().mean(1)
    count = int(split.group.max()) + 1
    sizes = torch.bincount(split.group, minlength=count)
    scores = torch.zeros(count).index_add_(0, split.group, errors) / sizes
    labels = torch.zeros(count, dtype=torch.int64).index_put_((split.group,), split.y)
    return area_under_curve(scores, labels)


def has_taps(_name: str, conv: Any) -> bool:
    """Candidates for every convolution with more than one tap."""
    return max(conv.kernel_size) > 1


def is_depthwise(_name: str, conv: Any) -> bool:
    """Candidates for every separable block."""
    return conv.groups > 1


@dataclass(frozen=True)
class Task:
    """A benchmark task.

    Attributes:
        name: as given to `--task`.
        input_shape: of one example, without the batch.
        seed: builds the seed network for that many classes, weights from the global generator.
        datasets: by name; the first is embedded and needs no files.
        where: which convolutions get candidates in a supernet, as for `nasopt.with_candidates`; None: there is none.
        loss: `(outputs (B, ...), inputs (B, ...), labels (B,)) -> scalar`.
        figure: of merit, `(outputs (N, ...), split) -> float`; larger is better, 1 is perfect.
        figure_name: its name.
    """

    name: str
    input_shape: tuple[int, ...]
    seed: Callable[[int], nn.Module]
    datasets: dict[str, DataSet] = field(hash=False)
    where: Callable[[str, Any], bool] | None = None
    loss: Callable[[Tensor, Tensor, Tensor], Tensor] = cross_entropy
    figure: Callable[[Tensor, Split], float] = top1
    figure_name: str = "accuracy"

    def supernet(self, num_classes: int, candidates: Sequence[str] | None = None) -> nn.Module:
        """The seed with alternatives in place of layers: the usual ones, or `candidates` by name.

        Raises:
            BenchmarkError: the task has none.
            ConfigError: an unknown candidate; the message lists the known ones.
        """
        if self.where is None:
            raise BenchmarkError(f"this method needs a supernet, task {self.name!r} has none: try pit")
        return with_candidates(self.seed(num_classes), self.input_shape, self.where, candidates=candidates)

    @property
    def default_data(self) -> str:
        """Name of the embedded data set."""
        return next(iter(self.datasets))

    def dataset(self, name: str | None) -> DataSet:
        """The data set of that name, or the embedded one for None.

        Raises:
            BenchmarkError: unknown name; the message lists the known ones.
        """
        key = self.default_data if name is None else name
        if key not in self.datasets:
            known = ", ".join(self.datasets)
            raise BenchmarkError(
                f"task {self.name!r} has no data {name!r}: known are {known}.{nearest(key, self.datasets)}"
            )
        return self.datasets[key]


# Recipes: epochs of warm-up, search and fine-tuning, batch size, lr, arch_lr, strength, norm_momentum.
_TASKS = (
    Task(  # image classification
        "ic",
        (3, 32, 32),
        resnet8,
        where=has_taps,
        datasets={
            "digits": DataSet(digits, Recipe(3, 13, 8, 64, 2e-3, 6e-3, 1.0, 0.2, "size=0.33")),
            "cifar10": DataSet(cifar10, Recipe(10, 30, 20, 128, 2e-3, 2e-3, 0.5, 0.1)),
            "cifar10_12k": DataSet(cifar10_12k, Recipe(8, 16, 12, 64, 2e-3, 4e-3, 0.5, 0.1)),
            "cifar10_subset": DataSet(cifar10_subset, Recipe(4, 8, 5, 64, 2e-3, 4e-3, 0.3, 0.1)),
        },
    ),
    Task(  # keyword spotting
        "kws",
        (1, 49, 10),
        ds_cnn,
        where=is_depthwise,
        datasets={
            "synthetic": DataSet(synthetic_words, Recipe(8, 12, 8, 50, 2e-3, 6e-3, 1.0, 0.2)),
            "fsdd": DataSet(spoken_digits, Recipe(4, 12, 8, 100, 2e-3, 6e-3, 0.5, 0.2)),
            "speech_commands": DataSet(speech_commands, Recipe(8, 16, 12, 100, 1e-3, 2e-3, 0.5)),
        },
    ),
    Task(  # visual wake words: is a person in the picture?
        "vww",
        (3, 96, 96),
        mobilenet_v1,
        where=is_depthwise,
        datasets={
            "synthetic": DataSet(synthetic_figures, Recipe(12, 8, 4, 32, 2e-3, 8e-3, 2.0, 0.2)),
            "person": DataSet(person_crops, Recipe(2, 6, 3, 32, 2e-3, 6e-3, 0.8, 0.2)),
            "visual_wake_words": DataSet(visual_wake_words, Recipe(10, 20, 20, 32, 1e-3, 1e-3, 0.5)),
        },
    ),
    Task(  # anomaly detection: what an auto-encoder that has heard healthy machines cannot rebuild is an anomaly
        "ad",
        (640,),
        autoencoder,
        loss=reconstruction_error,
        figure=auc_of_recordings,
        figure_name="AUC",
        datasets={
            "synthetic": DataSet(generated_machines, Recipe(6, 10, 8, 512, 1e-3, 6e-3, 10.0, 0.2)),
            "toycar": DataSet(toycar, Recipe(20, 40, 40, 512, 1e-3, 1e-3, 10.0)),
        },
    ),
)
TASKS: dict[str, Task] = {task.name: task for task in _TASKS}


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        BenchmarkError: unknown name; the message lists the known ones.
    """
    if name not in TASKS:
        raise BenchmarkError(f"unknown task {name!r}: known are {', '.join(TASKS)}.{nearest(name, TASKS)}")
    return TASKS[name]
