"""How is one epoch trained, and how is a network judged? No state of its own: everything arrives as an argument."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks_mlperf_tiny import processes
from benchmarks_mlperf_tiny.data.splits import Split, TaskData
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.progress import Progress
from benchmarks_mlperf_tiny.task import Task


def epoch_seed(seed: int, phase: int, epoch: int) -> int:
    """A seed of 63 bits for one epoch.

    Every epoch starts from a random state that depends on these three numbers only, so a checkpoint between epochs
    needs no generator state, and a run that is resumed draws what an uninterrupted one draws.
    """
    digest = hashlib.sha256(f"{seed}/{phase}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def autocast(device: str, amp: bool) -> contextlib.AbstractContextManager[object]:
    """bfloat16 where it is safe, or nothing."""
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=torch.bfloat16) if amp else contextlib.nullcontext()


@dataclass(frozen=True)
class Engine:
    """What stays the same in all epochs of a run."""

    task: Task
    data: TaskData
    device: str
    amp: bool
    batch_size: int
    channels_last: bool = False

    def arrange(self, x: Tensor) -> Tensor:
        """A raw batch as network inputs, on the device; images channels last, which convolutions on a CPU prefer.

        Not all do: with torch 2.13.0 (CPU) the backward pass of `Conv2d(4, 4, 1, stride=2)` on such a batch corrupts the heap.
        """
        x = x.to(self.device)
        if self.data.prepare is not None:
            x = self.data.prepare(x)
        return x.to(memory_format=torch.channels_last) if x.dim() == 4 and self.channels_last else x

    def train_epoch(
        self,
        forward: Callable[[Tensor], Tensor],
        penalty: Callable[[], Tensor] | None,
        optimizer: torch.optim.Optimizer,
        seed: int,
        progress: Progress,
        turn: Callable[[int], None] | None = None,
    ) -> float:
        """One pass over the training split; of several processes, each takes its share of every batch.

        Args:
            forward: the model in train mode.
            penalty: what the search adds to the task's loss, or None.
            optimizer: of the parameters to train.
            seed: of order, augmentation, dropout and sampling.
            progress: told of every step.
            turn: called with the number of every step before it is made, where steps alternate; even steps then see one
                half of the examples, odd ones the other.

        Returns:
            Mean loss of the task, without the penalty.

        Raises:
            BenchmarkError: the loss is not finite any more.
        """
        torch.manual_seed(seed + processes.rank())
        generator = torch.Generator().manual_seed(seed)
        total, steps = 0.0, 0
        train = self.data.train
        for x, y in (train.shuffled if turn is None else train.alternating)(self.batch_size, generator):
            if turn is not None:
                turn(steps)
            if self.data.augment is not None:
                x = self.data.augment(x, generator)
            weight = processes.weight(x)
            x, y = self.arrange(processes.share(x)), processes.share(y).to(self.device)
            optimizer.zero_grad(set_to_none=True)
            with autocast(self.device, self.amp), processes.whole_batch_norms():
                task_loss = weight * self.task.loss(forward(x), x, y)
            loss = task_loss if penalty is None else task_loss + penalty()  # costs need all digits
            loss.backward()
            optimizer.step()
            value = processes.mean(task_loss.detach())
            if not math.isfinite(value):
                raise BenchmarkError(
                    f"training diverged: the loss of step {steps} is {value}. Try a smaller --lr or --strength"
                )
            total, steps = total + value, steps + 1
            progress.step(total / steps)
        return total / max(steps, 1)

    @torch.no_grad()
    def judge(self, model: nn.Module, split: Split) -> float:
        """The task's figure of merit on a split, in eval mode; the model's mode is restored."""
        was_training = model.training
        model.eval()
        outputs = []
        for x, _ in split.batches(256):
            with autocast(self.device, self.amp):
                outputs.append(model(self.arrange(x)).float().cpu())
        model.train(was_training)
        return self.task.figure(torch.cat(outputs), split)
