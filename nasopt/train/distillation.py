"""Knowledge distillation: the loss, and the three phases in which student and teacher learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.errors import ConfigError

Phase = Literal["self_study", "co_study", "tutoring"]
Loss = Callable[[Tensor, Tensor], Tensor]


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
    study = Distillation(teacher=seed, epochs=(9, 9, 9))
    for epoch in range(27):
        study.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            study.loss(student(x), x, y).backward()      # the student's part
            optimizer.step()
            study.teach(student, x, y, teacher_optimizer)    # the teacher's own step, in co-study only
    ```

    Self-study: cross entropy of the student. Co-study: student and teacher learn from each other, mirrored losses and two
    optimizers on one batch. Tutoring: the teacher is frozen, in eval mode, and runs on the very batch that the student
    sees, augmentation included. With `epochs=(0, 0, n)` it is plain distillation.

    Source: Kim et al., "QKD: Quantization-aware knowledge distillation", 2019.

    Args:
        teacher: a network with the student's outputs; the float seed is a good one. It learns in co-study only.
        epochs: of self-study, co-study and tutoring.
        temperature, share: T and a of `kd_loss`; `share_in_tutoring` may differ.
        hard_loss: `(outputs, labels) -> scalar` of self-study.

    Raises:
        ConfigError: no three epochs >= 0 of which one is positive, a temperature or share out of its range.
    """

    def __init__(
        self,
        teacher: nn.Module,
        epochs: tuple[int, int, int],
        *,
        temperature: float = 8.0,
        share: float = 0.7,
        share_in_tutoring: float | None = None,
        hard_loss: Loss = F.cross_entropy,
    ) -> None:
        if len(epochs) != 3 or min(epochs) < 0 or not sum(epochs):
            raise ConfigError(
                f"Distillation: epochs must be three numbers >= 0 (self-study, co-study, tutoring), got {epochs!r}"
            )
        tutoring = share if share_in_tutoring is None else share_in_tutoring
        _check(temperature, share)
        _check(temperature, tutoring)
        self.teacher, self.epochs = teacher, tuple(epochs)
        self.temperature, self.hard_loss = float(temperature), hard_loss
        self._shares: dict[Phase, float] = {"co_study": float(share), "tutoring": float(tutoring)}
        self.epoch = 0

    @property
    def phase(self) -> Phase:
        """Phase of the current epoch; after the last one it stays tutoring, or the last phase that has epochs."""
        names: tuple[Phase, ...] = ("self_study", "co_study", "tutoring")
        first = 0
        last = names[0]
        for name, count in zip(names, self.epochs):
            first += count
            if count:
                last = name
            if self.epoch < first:
                return name
        return last

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch, counted from 0."""
        self.epoch = int(epoch)

    def loss(self, outputs: Tensor, inputs: Any, labels: Tensor) -> Tensor:
        """The student's loss for its outputs; runs the teacher on `inputs` where the phase needs it, in eval mode."""
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
        was_training = student.training
        with torch.no_grad():
            answers = student.eval()(inputs)
        student.train(was_training)
        self.teacher.train()
        optimizer.zero_grad()
        loss = kd_loss(
            self.teacher(inputs), answers, labels, temperature=self.temperature, share=self._shares["co_study"]
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    @torch.no_grad()
    def _answers(self, inputs: Any) -> Tensor:
        return self.teacher.eval()(inputs)


def _check(temperature: float, share: float) -> None:
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"distillation: temperature must be a finite number > 0, got {temperature!r}: 8 is usual")
    if not 0 <= share <= 1:
        raise ConfigError(f"distillation: share must lie in [0, 1], got {share!r}: 0.7 is usual, 0 is no distillation")
