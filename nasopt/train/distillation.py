"""Knowledge distillation: the loss, and the three phases in which student and teacher learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.checked import checked, checked_but
from nasopt.errors import ConfigError

Phase = Literal["self_study", "co_study", "tutoring"]
Loss = Callable[[Tensor, Tensor], Tensor]
_PHASES: tuple[Phase, ...] = ("self_study", "co_study", "tutoring")


@checked
def kd_loss(
    student: Tensor, teacher: Tensor, labels: Tensor | None, *, temperature: float = 8.0, share: float = 0.7
) -> Tensor:
    """`a T^2 KL(softmax(teacher / T) || softmax(student / T)) + (1 - a) CE(student, labels)`, a scalar.

    The divergence is summed over classes and averaged over the batch; the teacher gets no gradient. With respect to the
    student's logits the gradient of the first part is `a T (p_student - p_teacher) / N`, of about the same size whatever T.

    Source: Hinton et al., "Distilling the knowledge in a neural network", 2015.

    Args:
        student, teacher: logits `(N, classes)`, or with further dimensions after the classes.
        labels: classes `(N, ...)`; may be None where `share` is 1.
        temperature: T > 0; a high one shows how the teacher ranks what it holds for wrong.
        share: a in [0, 1]: 0 is cross entropy alone.

    Raises:
        ConfigError: shapes that differ, a temperature or share out of its range, labels that are missing.
    """
    _check(temperature, share)
    if student.shape != teacher.shape:
        raise ConfigError(
            f"kd_loss: the student's outputs are {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}: they must "
            "judge the same classes of the same samples"
        )
    if labels is None and share < 1:
        raise ConfigError(f"kd_loss: share={share:g} needs labels for the cross entropy: give them, or share=1")
    if labels is not None and labels.is_floating_point() and labels.shape != student.shape:
        raise ConfigError(
            f"kd_loss: labels are {labels.dtype} of shape {tuple(labels.shape)}: give classes as integers, or probabilities of "
            f"shape {tuple(student.shape)}"
        )
    total = student.new_zeros(())
    if share > 0:
        wanted = F.log_softmax(teacher.detach() / temperature, 1)
        divergence = F.kl_div(F.log_softmax(student / temperature, 1), wanted, reduction="none", log_target=True)
        positions = max(divergence.numel() // max(divergence.shape[1], 1), 1)
        total = total + share * temperature**2 * divergence.sum() / positions
    if labels is not None and share < 1:
        total = total + (1 - share) * F.cross_entropy(student, labels)
    return total


class Distillation:
    """Three phases of learning from a teacher: alone, together, and from the teacher at rest.

    ```python
    student = MixedPrecision(seed, (3, 32, 32), precision=4)
    study = Distillation(teacher=seed, epochs=(9, 9, 9))
    for epoch in range(study.epoch, 27):
        for step, (x, y) in enumerate(loader):
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * study.annealed_rate(step / len(loader))
            optimizer.zero_grad()
            study.loss(student(x), x, y).backward()      # the student's part
            optimizer.step()
            study.teach(student, x, y, teacher_optimizer)    # the teacher's own step, in co-study only
        study.step()
    ```

    Self-study: cross entropy of the student. Co-study: student and teacher learn from each other, mirrored losses and two
    optimizers on one batch. Tutoring: the teacher is frozen, in eval mode, and runs on the very batch that the student
    sees, augmentation included. With `epochs=(0, 0, n)` it is plain distillation. Everything follows from the epoch, which a
    checkpoint takes from `state_dict()`; the teacher's weights, which move in co-study, belong into it, too.

    Source: Kim et al., "QKD: Quantization-aware knowledge distillation", 2019.

    Args:
        teacher: a network with the student's outputs; the float seed is a good one. It learns in co-study only.
        epochs: of self-study, co-study and tutoring; where epochs are few, an eighth of them for each of the first two.
        temperature, share: T and a of `kd_loss`; `share_in_tutoring` may differ.
        rates: learning rates of the phases over that of the first; what is learned together is learned slowly.
        hard_loss: `(outputs, labels) -> scalar` of self-study.

    Raises:
        ConfigError: no teacher, no three whole epochs >= 0 of which one is positive, a temperature, share or rate out of its
            range.
    """

    @checked_but("epochs")
    def __init__(
        self,
        teacher: nn.Module,
        epochs: tuple[int, int, int],
        *,
        temperature: float = 8.0,
        share: float = 0.7,
        share_in_tutoring: float | None = None,
        rates: tuple[float, float, float] = (1.0, 0.1, 1.0),
        hard_loss: Loss = F.cross_entropy,
    ) -> None:
        if not isinstance(teacher, nn.Module):
            raise ConfigError(f"Distillation: teacher must be an nn.Module, got {type(teacher).__name__}")
        counts = list(epochs) if isinstance(epochs, (tuple, list)) else []
        if len(counts) != 3 or not all(type(n) is int and n >= 0 for n in counts) or not sum(counts):
            raise ConfigError(
                f"Distillation: epochs must be three whole numbers >= 0 (self-study, co-study, tutoring), got {epochs!r}"
            )
        tutoring = share if share_in_tutoring is None else share_in_tutoring
        _check(temperature, share)
        _check(temperature, tutoring)
        if len(rates) != 3 or not all(math.isfinite(rate) and rate >= 0 for rate in rates):
            raise ConfigError(f"Distillation: rates must be three finite numbers >= 0, one per phase, got {rates!r}")
        self.teacher, self.epochs = teacher, tuple(epochs)
        self._rates: dict[Phase, float] = dict(zip(_PHASES, map(float, rates)))
        self.temperature, self.hard_loss = float(temperature), hard_loss
        self._shares: dict[Phase, float] = {"co_study": float(share), "tutoring": float(tutoring)}
        self.epoch = 0

    @property
    def phase(self) -> Phase:
        """Phase of the current epoch; after the last one it stays tutoring, or the last phase that has epochs."""
        first = 0
        last = _PHASES[0]
        for name, count in zip(_PHASES, self.epochs):
            first += count
            if count:
                last = name
            if self.epoch < first:
                return name
        return last

    @property
    def rate(self) -> float:
        """Learning rate of the current phase over that of the first: what an optimizer's own is to be multiplied by."""
        return self._rates[self.phase]

    def annealed_rate(self, progress: float = 0.0) -> float:
        """`rate` times a cosine that falls from 1 to 0 over the epochs of the current phase.

        **Every phase anneals by itself**: under one schedule for all of them the later phases learn from what is left of the
        first one's rate, and QKD falls behind plain training of as many epochs. After the last epoch it is 0.

        Args:
            progress: share of the current epoch that is over, in [0, 1).

        Raises:
            ConfigError: it lies outside.
        """
        if not 0 <= progress < 1:
            raise ConfigError(
                f"Distillation: progress is the share of an epoch that is over, in [0, 1), got {progress!r}"
            )
        start = sum(self.epochs[: _PHASES.index(self.phase)])
        done = (self.epoch + progress - start) / self.epochs[_PHASES.index(self.phase)]
        return self.rate * (1 + math.cos(math.pi * min(done, 1.0))) / 2

    def step(self) -> None:
        """Go to the next epoch: call it at the end of every epoch."""
        self.epoch += 1

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch, counted from 0.

        Raises:
            ConfigError: it is no int >= 0.
        """
        if type(epoch) is not int or epoch < 0:
            raise ConfigError(f"Distillation: an epoch is an int >= 0, got {epoch!r}")
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: the epoch."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the epoch at which a checkpoint was written.

        Raises:
            ConfigError: `state` is not what `state_dict` returned.
        """
        if not isinstance(state, Mapping) or set(state) != {"epoch"}:
            raise ConfigError(f"Distillation: a state is a dict with the one key 'epoch', got {state!r}")
        self.set_epoch(state["epoch"])

    def loss(self, outputs: Tensor, inputs: Any, labels: Tensor) -> Tensor:
        """The student's loss for its outputs; runs the teacher on `inputs`, a tuple if several, in eval mode, if need be."""
        phase = self.phase
        if phase == "self_study":
            return self.hard_loss(outputs, labels)
        return kd_loss(outputs, self._answers(inputs), labels, temperature=self.temperature, share=self._shares[phase])

    def teach(self, student: nn.Module, inputs: Any, labels: Tensor, optimizer: torch.optim.Optimizer) -> Tensor | None:
        """One step of the teacher, in train mode, on the student's answers; None outside of co-study.

        The student's answers are those of eval mode, so that its norms do not move twice. The teacher's gradients are
        cleared before and after.
        """
        if self.phase != "co_study":
            return None
        modes = {module: module.training for module in student.modules()}
        with torch.no_grad():
            answers = student.eval()(*_several(inputs))
        for module, mode in modes.items():
            module.training = mode
        self.teacher.train()
        optimizer.zero_grad()
        loss = kd_loss(
            self.teacher(*_several(inputs)),
            answers,
            labels,
            temperature=self.temperature,
            share=self._shares["co_study"],
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    @torch.no_grad()
    def _answers(self, inputs: Any) -> Tensor:
        return self.teacher.eval()(*_several(inputs))


def _several(inputs: Any) -> tuple[Any, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _check(temperature: float, share: float) -> None:
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"distillation: temperature must be a finite number > 0, got {temperature!r}: 8 is usual")
    if not 0 <= share <= 1:
        raise ConfigError(f"distillation: share must lie in [0, 1], got {share!r}: 0.7 is usual, 0 is no distillation")
