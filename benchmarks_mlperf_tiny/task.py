"""What is a benchmark task? A seed network, a loss, a figure of merit, data sets and a recipe, as one plain value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.data.splits import Split, TaskData
from benchmarks_mlperf_tiny.errors import BenchmarkError
from nasopt.errors import nearest


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train.

    Attributes:
        warmup, search, finetune: epochs of each phase. A plain seed trains for the sum of the three.
        batch_size: examples per step.
        lr: of network parameters (Adam); held in warm-up and search, a cosine to zero in fine-tuning.
        arch_lr: of architecture parameters (Adam).
        strength: default weight of the relative cost in the search loss.
        norm_momentum: of batch norms, as in PyTorch; the reference's 0.01 fits trainings of many thousand steps.
    """

    warmup: int
    search: int
    finetune: int
    batch_size: int
    lr: float
    arch_lr: float
    strength: float
    norm_momentum: float = 0.01


@dataclass(frozen=True)
class DataSet:
    """A data set that a task can use.

    Attributes:
        load: reads or generates it.
        recipe: how to train on it.
        about: one line for `--help` and reports.
    """

    load: Callable[[DataOptions], TaskData]
    recipe: Recipe
    about: str


@dataclass(frozen=True)
class Task:
    """A benchmark task.

    Attributes:
        name: as given to `--task`.
        title: for people.
        input_shape: of one example, without the batch.
        figure_name: of the figure of merit; larger is better, 1 is perfect.
        target: of the figure, as MLPerf Tiny asks for on the original data.
        seed: builds the seed network for that many classes, weights from the global generator.
        loss: `(outputs (B, ...), inputs (B, ...), labels (B,)) -> scalar`.
        figure: `(outputs (N, ...), split) -> float`.
        datasets: by name; the first is embedded and needs no files.
        supernet: builds the seed with alternatives in place of layers, or None.
    """

    name: str
    title: str
    input_shape: tuple[int, ...]
    figure_name: str
    target: float
    seed: Callable[[int], nn.Module]
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    figure: Callable[[Tensor, Split], float]
    datasets: Mapping[str, DataSet]
    supernet: Callable[[int], nn.Module] | None = None

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


def top1(outputs: Tensor, split: Split) -> float:
    """Share of examples whose largest output is the label."""
    return float((outputs.argmax(1) == split.y).float().mean())
