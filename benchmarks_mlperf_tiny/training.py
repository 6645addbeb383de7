"""One epoch of training, and the judgement of a network, on the data of a task; progress and curves for people."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks_mlperf_tiny import processes
from benchmarks_mlperf_tiny.data.splits import Split, TaskData
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.tasks import Task
from nasopt.extras import import_extra

LINES = 4  # of progress per phase, where there is no terminal


def epoch_seed(seed: int, phase: int, epoch: int) -> int:
    """A seed of 63 bits for one epoch.

    Every epoch starts from a random state that depends on these three numbers only, so a checkpoint between epochs
    needs no generator state, and a run that is resumed draws what an uninterrupted one draws.
    """
    digest = hashlib.sha256(f"{seed}/{phase}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Batch(NamedTuple):
    """This process's share of a batch.

    Attributes:
        x: network inputs.
        y: labels.
        weight: what the mean loss of this share counts in the mean over all processes.
    """

    x: Tensor
    y: Tensor
    weight: float


Step = Callable[[int, Batch], Any]  # number of the step and its batch -> loss of the task


@dataclass(frozen=True)
class Engine:
    """What stays the same in all epochs of a run."""

    task: Task
    data: TaskData
    device: str
    amp: bool
    batch_size: int

    def arrange(self, x: Tensor) -> Tensor:
        """A raw batch as network inputs, on the device.

        Images come with their channels last in memory: convolutions of a processor are faster so.
        """
        x = x.to(self.device)
        x = x if self.data.prepare is None else self.data.prepare(x)
        is_image = x.ndim == 4 and x.device.type == "cpu"
        return x.contiguous(memory_format=torch.channels_last) if is_image else x

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 where it is safe, or nothing."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, dtype=torch.bfloat16) if self.amp else contextlib.nullcontext()

    def forward(self, model: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The forward pass of a training step: in that precision, and its norms see the whole batch."""

        def run(x: Tensor) -> Tensor:
            with self.autocast(), processes.whole_batch_norms():
                return model(x)

        return run

    def criterion(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The task's loss of a batch."""
        with self.autocast():
            return batch.weight * self.task.loss(outputs, batch.x, batch.y)

    def batches(self, seed: int, alternate: bool) -> Iterator[Batch]:
        """One pass over the training split, augmented; of several processes, each takes its share of every batch."""
        generator = torch.Generator().manual_seed(seed)
        train = self.data.train
        for x, y in (train.alternating if alternate else train.shuffled)(self.batch_size, generator):
            if self.data.augment is not None:
                x = self.data.augment(x, generator)
            weight = processes.weight(x)
            yield Batch(self.arrange(processes.share(x)), processes.share(y).to(self.device), weight)

    def train_epoch(self, step: Step, seed: int, progress: Progress | None = None, alternate: bool = False) -> float:
        """One pass over the training split.

        Args:
            step: trains on a batch; the costs of a search, which need all digits, are added in there.
            seed: of order, augmentation, dropout and sampling.
            progress: told of every step.
            alternate: whether even steps see one half of the examples and odd ones the other.

        Returns:
            Mean loss of the task.

        Raises:
            BenchmarkError: the loss is not finite any more.
        """
        torch.manual_seed(seed + processes.rank())
        total = 0.0
        number = -1
        for number, batch in enumerate(self.batches(seed, alternate)):
            value = processes.mean(torch.as_tensor(step(number, batch), device=self.device))
            if not math.isfinite(value):
                raise BenchmarkError(
                    f"training diverged: the loss of step {number} is {value}. Try a smaller --lr or --strength"
                )
            total += value
            if progress is not None:
                progress.step(total / (number + 1))
        return total / max(number + 1, 1)

    def plain_step(
        self,
        forward: Callable[[Tensor], Tensor],
        optimizer: torch.optim.Optimizer,
        penalty: Callable[[], Tensor] | None = None,
    ) -> Step:
        """A step of one optimizer; `penalty` is what a search adds to the task's loss."""
        forward = self.forward(forward)

        def step(_number: int, batch: Batch) -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            task_loss = self.criterion(forward(batch.x), batch)
            (task_loss if penalty is None else task_loss + penalty()).backward()
            optimizer.step()
            return task_loss.detach()

        return step

    @torch.no_grad()
    def judge(self, model: nn.Module, split: Split) -> float:
        """The task's figure of merit on a split, in eval mode; the model's mode is restored."""
        was_training = model.training
        model.eval()
        with self.autocast():
            outputs = [model(self.arrange(x)).float().cpu() for x, _ in split.batches(256)]
        model.train(was_training)
        return self.task.figure(torch.cat(outputs), split)


class Progress:
    """Shows one phase: a bar at a terminal, a few lines elsewhere.

    Args:
        label: of the phase, for example `"pit search"`.
        epochs: planned.
        steps: per epoch.
        done: epochs that an interrupted run has done already.
        quiet: show nothing.
        figure: name of the figure of merit on the val split.
    """

    def __init__(
        self, label: str, epochs: int, steps: int, done: int = 0, quiet: bool = False, figure: str = "accuracy"
    ) -> None:
        self.label, self.epochs, self.epoch, self.quiet, self.figure = label, epochs, done, quiet, figure
        self.note = ""
        self.bar: Any = None
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=epochs * steps, initial=done * steps, desc=label, unit="step", dynamic_ncols=True)

    def step(self, loss: float) -> None:
        """One training step is done; `loss` is the epoch's mean so far."""
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {loss:.3f}{self.note}", refresh=False)
            self.bar.update()

    def end_epoch(self, record: dict[str, Any]) -> None:
        """An epoch is done; `record` holds `loss`, `val` and, in a search, `cost` and `budget` as shares of the seed's."""
        self.epoch += 1
        shares = "".join(f", {key} {100 * record[key]:.1f} %" for key in ("cost", "budget") if key in record)
        self.note = f", val {self.figure} {record['val']:.3f}{shares}"
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {record['loss']:.3f}{self.note}")
        elif not self.quiet and (self.epoch * LINES // self.epochs > (self.epoch - 1) * LINES // self.epochs):
            print(f"{self.label} {self.epoch}/{self.epochs}: loss {record['loss']:.3f}{self.note}", file=sys.stderr)

    def close(self) -> None:
        """Leave the bar where it is."""
        if self.bar is not None:
            self.bar.close()


class CurveWriter:
    """Writes the records of epochs as scalars for TensorBoard, which is no dependency.

    Args:
        folder: of the event file.

    Raises:
        MissingExtraError: TensorBoard is not installed; the message names the command.
    """

    def __init__(self, folder: Path) -> None:
        import_extra("tensorboard", "tensorboard", "--tensorboard")
        self.writer: Any = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder))

    def write(self, record: dict[str, Any], step: int) -> None:
        """One epoch; `step` counts epochs through all phases."""
        for key in ("loss", "val", "cost", "budget"):
            if key in record:
                self.writer.add_scalar(f"{record['phase']}/{key}", record[key], step)
        self.writer.flush()
