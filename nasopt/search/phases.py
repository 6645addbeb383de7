"""PhaseSchedule: warm-up, search and fine-tuning of a search model, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from nasopt.arguments import check_count, check_flag, check_items
from nasopt.errors import ConfigError
from nasopt.search import importance
from nasopt.search.eliminate import has_branches
from nasopt.search.model import SearchModel
from nasopt.search.parameters import MASKS, ParameterHalves
from nasopt.search.phase_arguments import check_freeze, check_steps_of, check_teacher, make_strength
from nasopt.search.schedule import Schedule, exponential
from nasopt.search.shrink import check_optimizers, removable
from nasopt.train.distillation import kd_loss

Phase = Literal["warmup", "search", "finetune"]
_KINDS = {"masks": MASKS, "choices": ("choice_logits",)}
_FAR = 0.5  # share of a threshold below which masks that walk are unlikely to come back
_ELIMINATED = 0.75  # share of the search after which choices are decided
_PRICE = (
    3.0  # of shrinking a model, in steps, times what makes the sum of all shrinkings and of what waits for them least
)


class PhaseSchedule:
    """Leads a search model through its epochs; in use it is like a learning-rate scheduler of torch.

    ```python
    phases = PhaseSchedule(model, warmup=5, search=40, finetune=10, strength=schedule.linear(0.0, 0.1, epochs=20))
    for epoch in range(phases.epoch, phases.epochs):
        for x, y in loader:
            loss = criterion(model(x), y) + phases.get_regularization_loss()
            ...
        phases.step()
    ```

    | phase | architecture parameters | train mode runs | regularizer |
    | --- | --- | --- | --- |
    | warmup | frozen | what a search runs, in floats | none |
    | search | trained | what a search runs | `strength` |
    | finetune | frozen | the network that `arch_export` would give | none |

    At the start of every epoch the temperature schedule of the model moves on (see `set_epoch` of the model), counted from the
    first epoch of the search. Fine-tuning begins with `settle_budget()` where the model can do so.

    With `precision=` the warm-up computes in floats (`SearchModel.quantise`): a network that begins at random weights learns
    faster so. The temperature of choices between widths falls from 1 to 0.1 over the search, unless the model was given one.

    Everything follows from the epoch, so a checkpoint needs nothing else: `state_dict()` holds it. Optimizers are left alone.
    Around a model in `DistributedDataParallel`, make the schedule after it, of `ddp.module`.
    To fine-tune with another optimizer or at the speed of the found network, leave `finetune` at 0 and train what
    `arch_export()` returns.

    Args:
        model: the search model itself, not a wrapper around it.
        warmup, search, finetune: lengths [epochs]; at least one epoch of search.
        strength: of the regularizer in the search: a number, or a schedule (`nasopt.schedule`) whose epoch 0 is the first of
            the search. None: 1, for a model with a `Budget`, which finds its own.
        freeze: what waits for its turn at the start of the search [epochs]: `{"masks": 5}`, so that branches are weighed
            first, or `{"choices": 5}`.
        shrink: the optimizer of the model, or all of them: with it, units that are off for good leave the model at the end of
            every epoch of the search, and whatever is off when fine-tuning begins (`SearchModel.shrink`), so steps become faster.
        eliminate: let the least probable branches leave at the ends of the search's epochs, in equal steps, until every choice
            is decided after three quarters of the search (`SearchModel.drop_branches`); optimizers are those of `shrink`.
        teacher: a trained network with the model's outputs, e.g. the seed, from which search and fine-tuning learn in
            `get_teacher_loss`; it stays as it is.
        steps: batches of an epoch, `len(loader)`; with it a search that is too short is refused before it starts: for the limits
            of `Budget(steps=)` to fall, or for Adam in `shrink` to move a mask to its threshold.

    Attributes:
        epoch: the current one, from 0.
        epochs: of all phases.
        phase: `"warmup"`, `"search"` or `"finetune"`. Past the end the last phase goes on.
        strength: in this epoch; 0 outside the search.

    Raises:
        ConfigError: the model is no search model, a length is no usable number, the strength is missing or negative, an
            optimizer in `shrink` holds other parameters, the outputs of the teacher are of another shape, or there are
            too few steps.
    """

    def __init__(
        self,
        model: SearchModel,
        *,
        search: int,
        warmup: int = 0,
        finetune: int = 0,
        strength: float | Schedule | None = None,
        freeze: Mapping[str, float] | None = None,
        shrink: Optimizer | Sequence[Optimizer] = (),
        eliminate: bool = False,
        teacher: nn.Module | None = None,
        steps: int | None = None,
    ) -> None:
        if not isinstance(model, ParameterHalves):
            inner = " Pass the model inside it (.module)." if hasattr(model, "module") else ""
            raise ConfigError(
                f"PhaseSchedule leads a search model (PIT, SuperNet, PITSuperNet, NASB), got {type(model).__name__}.{inner}"
            )
        for name, length, least in (("warmup", warmup, 0), ("search", search, 1), ("finetune", finetune, 0)):
            check_count(f"PhaseSchedule: {name}", length, least, "epochs")
        self.model = model
        self.warmup, self.search, self.finetune = warmup, search, finetune
        self._strength = make_strength(strength, model)
        self._freeze = check_freeze({} if freeze is None else freeze, _KINDS)
        self._shrink = (
            (shrink,)
            if isinstance(shrink, Optimizer)
            else tuple(check_items("PhaseSchedule: shrink", shrink, Optimizer, "optimizers"))
        )
        self._eliminate = check_flag("PhaseSchedule: eliminate", eliminate)
        if eliminate and not has_branches(model):
            raise ConfigError(f"PhaseSchedule: eliminate drops branches, and this {type(model).__name__} searches none")
        if self._shrink and model.masks is None and not eliminate:
            raise ConfigError(
                f"PhaseSchedule: shrink removes channels, and {type(model).__name__} has no masks: leave it out, or let branches "
                "go with eliminate=True"
            )
        if self._shrink:
            check_optimizers(model, self._shrink)
        if steps is not None:
            check_steps_of(model, search, steps, self._shrink)
        self.teacher = teacher
        if teacher is not None:
            check_teacher(model, teacher)
        self._cooling = exponential(1.0, 0.1, epochs=max(search - 1, 1))
        self.epoch = 0
        self._go(0)

    @property
    def epochs(self) -> int:
        """Epochs of all phases."""
        return self.warmup + self.search + self.finetune

    def phase_of(self, epoch: int) -> Phase:
        """The phase that an epoch belongs to.

        Raises:
            ConfigError: it is no int >= 0.
        """
        check_count("PhaseSchedule: epoch", epoch)
        if epoch < self.warmup:
            return "warmup"
        return "search" if epoch < self.warmup + self.search or not self.finetune else "finetune"

    # --- from epoch to epoch

    def step(self) -> bool:
        """Go to the next epoch: call it at the end of every epoch, before a checkpoint is written.

        Returns whether anything left the model, see `after_step`.
        """
        return self.set_epoch(self.epoch + 1)

    def set_epoch(self, epoch: int) -> bool:
        """Go to any epoch: in place of `step`, for a loop that counts by itself. A later one ends the current one.

        Raises:
            ConfigError: it is no int >= 0.
        """
        ended = self.epoch
        self._go(epoch)
        if epoch <= ended or self.phase_of(ended) != "search":
            return False
        reports = []
        if self._eliminate and (share := self._branches_left()) < 1:
            reports.append(self.model.drop_branches(*self._shrink, share=share, when=ended))
        if self._shrink and self.model.masks is not None:
            share = 1.0 if self.phase == "finetune" else self._share
            reports.append(self.model.shrink(*self._shrink, share=share, when=ended))
        return any(map(_has_lost, reports))

    def _branches_left(self) -> float:
        """Share of the branches that will go in the end, that are left in this epoch."""
        waits = self._freeze.get("choices", 0.0)
        done, whole = self.epoch - self.warmup - waits, self.search - waits
        return 1 - min(max(done / max(_ELIMINATED * whole, 1.0), 0.0), 1.0)

    def after_step(self) -> bool:
        """Shrink within an epoch; returns whether anything left the model.

        Call it behind every `optimizer.step()` where limits fall (`Budget(steps=)`): what is off leaves as soon as the steps
        that follow pay for it (a step gets cheaper by `sqrt(3 / steps of the fall)` [MAC], 6 % at 800), not at the end of the
        epoch. Without `shrink`, outside of the search and for masks that walk it does nothing. `DistributedDataParallel` and a
        copy of the weights (an average of them) have to be made anew where it or `step` returns True.
        """
        ranks = self.model.importance
        if self.phase != "search" or ranks is None or not ranks.has_set:
            return False
        self._rest()
        if not self._shrink:
            return False
        ranks.has_set = False
        if removable(self.model) < math.sqrt(_PRICE / max(ranks.last - ranks.first, 1)):
            return False
        report = self.model.shrink(*self._shrink, share=self._share, when=self.epoch)
        return _has_lost(report)

    @property
    def _share(self) -> float:
        return _FAR if self.model.importance is None else importance.RANKING.share

    def _go(self, epoch: int) -> None:
        self.phase = self.phase_of(epoch)
        self.epoch = epoch
        of_search = min(max(epoch - self.warmup, 0), self.search)
        self.model.set_epoch(of_search)
        if self.model.choices is not None and self.model.choices.temperature is None:
            self.model.set_width_temperature(self._cooling(of_search))
        if self.model.precision is not None:
            self.model.quantise(self.phase != "warmup")
        self.strength = self._strength(of_search) if self.phase == "search" else 0.0
        held = [name for kind, epochs in self._freeze.items() if of_search < epochs for name in _KINDS[kind]]
        if self._freeze:
            self.model.hold(held if self.phase != "finetune" else ())
        if self.phase == "search":
            self.model.unfreeze_arch()
            self._rest()
            return
        if self.phase == "finetune" and self.model.budget is not None:
            self.model.settle_budget()
        self.model.freeze_arch(decided=self.phase == "finetune")

    def _rest(self) -> None:
        """Masks that have been set for good take no gradients any more."""
        ranks, is_joint = self.model.importance, dist.is_available() and dist.is_initialized()
        if ranks is not None and ranks.is_over and self.model.choices is None and not is_joint:
            self.model.freeze_arch()

    def get_regularization_loss(self) -> Tensor:
        """The regularizer times the strength of this epoch, a scalar to add to the loss; a plain 0 outside the search."""
        if not self.strength:
            return next(self.model.arch_parameters()).new_zeros(())
        loss = self.model.get_regularization_loss()
        # Masks that are set by importance see how their gradients are scaled, so a strength that changes would weigh steps.
        return loss if self.model.importance is not None else self.strength * loss

    def get_teacher_loss(self, outputs: Tensor, *inputs: Any, temperature: float = 4.0, **named: Any) -> Tensor:
        """`T^2 KL(teacher || student)` of a batch, a scalar to add to the loss or to mix with it; a plain 0 in the warm-up.

        ```python
        y_hat = model(x)
        loss = 0.3 * criterion(y_hat, y) + 0.7 * phases.get_teacher_loss(y_hat, x) + phases.get_regularization_loss()
        ```

        Args:
            outputs: of the model, logits `(N, classes, ...)`.
            inputs, named: from which they come; the teacher runs on them in eval mode.
            temperature: T > 0 of `nasopt.train.kd_loss`.

        Raises:
            ConfigError: there is no teacher, or the temperature is not above 0.
        """
        if self.teacher is None:
            raise ConfigError("get_teacher_loss: there is no teacher: PhaseSchedule(..., teacher=trained_seed)")
        if self.phase == "warmup":
            return outputs.new_zeros(())
        with torch.no_grad():
            answers = self.teacher.eval()(*inputs, **named)
        return kd_loss(outputs, answers, None, temperature=temperature, share=1.0)

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold beside model and optimizer: the epoch."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the epoch at which a checkpoint was written. Lengths and strength stay as given: they may be others now.

        Raises:
            ConfigError: `state` is not what `state_dict` returned.
        """
        if not isinstance(state, Mapping) or set(state) != {"epoch"}:
            raise ConfigError(f"PhaseSchedule: a state is a dict with the one key 'epoch', got {state!r}")
        self._go(state["epoch"])

    def __repr__(self) -> str:
        lengths = f"warmup={self.warmup}, search={self.search}, finetune={self.finetune}"
        return f"PhaseSchedule({lengths}; epoch {self.epoch}: {self.phase}, strength {self.strength:g})"


def _has_lost(report: Mapping[str, Any]) -> bool:
    return any(report[what] for what in ("channels", "kernels", "branches"))
