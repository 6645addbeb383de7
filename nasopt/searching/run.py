"""One search from its arguments to its result: epochs of training, figures on the val split, checkpoints."""

from __future__ import annotations

import copy
import io
import itertools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nasopt.arguments import check_number
from nasopt.errors import ConfigError, DivergedError
from nasopt.search.calibrate import unrounded
from nasopt.search.eliminate import has_branches
from nasopt.search.model import SearchModel
from nasopt.search.parameters import ParameterHalves
from nasopt.search.phases import PhaseSchedule
from nasopt.search.precision import plain_widths
from nasopt.search.recalibrate import batch_inputs, recalibrate
from nasopt.search.regularizer import FEWEST, Budget
from nasopt.searching.given import (
    called,
    check_batch,
    check_loss,
    damaged,
    enough,
    fingerprint,
    first_of,
    length_of,
    read_checkpoint,
)

Loss = Callable[[Any, Any], Tensor]
Figure = Callable[[Any, Any], float]
# Batches from which norm statistics are estimated before a search model is judged: a sixteenth of an epoch, within these.
_RECALIBRATION = (2, 8)
_LEARNED = 0.7  # share of the teacher in the loss
_FORMAT = 1


@dataclass(frozen=True)
class SearchResult:
    """What a search has found.

    Attributes:
        network: plain layers, trained, in eval mode.
        structure: for `nasopt.restore`, with the network's state dict.
        costs: per metric of the budget `{"seed", "found", "limit"}`.
        val: figure on the val split.
        history: one record per epoch: `epoch`, `phase`, `loss`, `val`, `seconds`, and per metric the cost of what would be
            exported.
        removed: what left the model when: `model.shrunk.history`.
    """

    network: nn.Module
    structure: dict[str, Any]
    costs: dict[str, dict[str, float]]
    val: float
    history: list[dict[str, Any]]
    removed: list[dict[str, Any]]


@dataclass
class _State:
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    best_val: float = -math.inf


class Run:
    """One search; what it is made of, and one epoch after the other."""

    def __init__(
        self,
        model: nn.Module,
        train_loader: Iterable[Any],
        val_loader: Iterable[Any],
        budget: Any,
        lengths: tuple[int, int, int],
        method: Callable[..., SearchModel],
        loss: Loss,
        figure: Figure | None,
        teacher: nn.Module | None,
        lr: float,
        checkpoint: str | Path | None,
    ) -> None:
        self.train_loader, self.val_loader, self.loss, self.figure = train_loader, val_loader, loss, figure
        self.lr = check_number("search: lr", lr, above=0)
        if isinstance(model, ParameterHalves):
            raise ConfigError(
                f"search: the model is a {type(model).__name__} already: pass the seed, which is wrapped here; "
                "method=lambda seed, **options: PIT(seed, exclude_names=..., **options) for options of its own"
            )
        steps = length_of(train_loader) * lengths[1]
        if steps < FEWEST:
            per_epoch = length_of(train_loader)
            raise ConfigError(
                f"search: {lengths[1]} epochs of search of {per_epoch} batches are {steps} steps, too few to know what matters: "
                f"{FEWEST} are the least. Give epochs >= {enough(per_epoch)}, or smaller batches"
            )
        first = first_of(train_loader, "train_loader")
        self.trial: list[Any] = [first_of(val_loader, "val_loader")]
        if not any(p.requires_grad for p in model.parameters()):
            raise ConfigError(
                "search: no parameter of the model takes a gradient, so nothing can be trained: model.requires_grad_()"
            )
        given = budget if isinstance(budget, Budget) else Budget(budget)
        arguments, keywords = batch_inputs(first)
        like = next(model.parameters(), torch.empty(0))
        example = pytree.tree_map_only(Tensor, lambda x: x[:2].to(like.device), keywords or arguments)
        self.wrap = lambda: method(model, input_example=example, regularizer=Budget(dict(given.limits), steps=steps))
        self.model: Any = self.wrap()
        # Masks are set, not trained: their rate moves nothing, and branches follow that of the weights.
        is_fused = {p.device.type for p in self.model.parameters()} <= {"cpu", "cuda"}
        self.optimizer = torch.optim.Adam(self.model.param_groups(lr=lr, arch_lr=lr), fused=is_fused)
        warmup, search_epochs, finetune = lengths
        self.phases = PhaseSchedule(
            self.model,
            warmup=warmup,
            search=search_epochs,
            finetune=finetune,
            shrink=self.optimizer,
            eliminate=has_branches(self.model),
            teacher=teacher,
            steps=length_of(train_loader),
        )
        self.has_norms = any(getattr(module, "running_mean", None) is not None for module in self.model.modules())
        self.state = _State()
        self.device = like.device
        self.settings = {
            "limits": {m.name: limit for m, limit in given.limits},
            "lengths": list(lengths),
            "steps": steps,
            "method": type(self.model).__name__,
            "seed": fingerprint(model),
            **({"precision": plain_widths(widths)} if (widths := self.model.precision) is not None else {}),
        }
        self.path = self._writable(checkpoint) if checkpoint is not None else None
        self.good = copy.deepcopy(self.model.state_dict())

    # --- one epoch

    def epoch(self) -> None:
        """Train, judge, note, go to the next epoch, save."""
        if self.trial and not self.state.history:
            with unrounded(self.model.net):  # whose steps may wait for the first batch
                self.judge(self.trial)
        self.trial = []
        phases, started, total, count = self.phases, time.monotonic(), 0.0, 0
        phase = phases.phase
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self._rate()
        self.model.train()
        for batch in self.train_loader:
            self.optimizer.zero_grad(set_to_none=True)
            task, extra = self._loss(batch)
            value = float(check_loss(task).detach())
            if not math.isfinite(value):
                self._diverged(value)
            (task + extra).backward()
            self.optimizer.step()
            phases.after_step()
            total, count = total + value, count + 1
        seconds = time.monotonic() - started
        if count < (said := length_of(self.train_loader)):
            raise ConfigError(
                f"search: train_loader says that it has {said} batches and gave {count} in an epoch, so limits would not fall to "
                "the budget in time: let its length be what it yields"
            )
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):  # the last step may have broken it
            self._diverged(math.nan)
        if phase == "search" and self.has_norms:
            least, most = _RECALIBRATION
            recalibrate(self.model, itertools.islice(self.train_loader, max(least, min(count // 16, most))))
        val = self.judge(self.val_loader)
        record: dict[str, Any] = {"epoch": phases.epoch, "phase": phase, "loss": total / max(count, 1), "val": val}
        record["seconds"] = seconds
        record |= {m.name: self.model.get_cost(m, discrete=True) for m, _ in self.model.budget.limits}
        self.state.history.append(record)
        phases.step()
        if phase == "finetune" and val >= self.state.best_val:
            self.state.best_val, self.state.best = val, copy.deepcopy(self.model.state_dict())
        self.good = copy.deepcopy(self.model.state_dict())
        self.save()

    def _loss(self, batch: Any) -> tuple[Tensor, Tensor]:
        outputs, labels, arguments, named = self._run(batch)
        task = called("loss(outputs, labels)", self.loss, outputs, labels)
        if self.phases.teacher is not None and self.phases.phase != "warmup":
            taught = self.phases.get_teacher_loss(outputs, *arguments, **named)
            task = (1 - _LEARNED) * task + _LEARNED * taught
        return task, self.phases.get_regularization_loss()

    def _run(self, batch: Any) -> tuple[Any, Any, tuple[Any, ...], dict[str, Any]]:
        arguments, keywords = batch_inputs(check_batch(batch))
        arguments, keywords, labels = pytree.tree_map_only(
            Tensor, lambda x: x.to(self.device), (arguments, keywords, batch[1])
        )
        return called("the model", self.model, *arguments, **keywords), labels, arguments, keywords

    def _rate(self) -> float:
        """Learning rate of this epoch over that of the weights: constant, then half a cosine."""
        phases = self.phases
        done = phases.epoch - phases.warmup - phases.search
        return 0.5 * (1 + math.cos(math.pi * done / phases.finetune)) if done > 0 else 1.0

    @torch.no_grad()
    def judge(self, batches: Iterable[Any]) -> float:
        """The figure on batches, a mean over their samples; of the network that would be exported."""
        total, samples = 0.0, 0
        self.model.eval()
        for batch in batches:
            outputs, labels, arguments, named = self._run(batch)
            if any(isinstance(x, Tensor) and bool(x.isnan().any()) for x in pytree.tree_leaves(outputs)):
                raise ConfigError("search: outputs on the val split are nan: look for a NaN in its samples")
            count = len(next(x for x in pytree.tree_leaves((arguments, named)) if isinstance(x, Tensor)))
            total += count * called("figure(outputs, labels)", self._judged, outputs, labels)
            samples += count
        if not samples:
            raise ConfigError(
                "search: val_loader gives no samples, so networks cannot be judged: it has to yield the same batches every time"
            )
        if math.isnan(total):
            raise ConfigError(
                "search: the figure on the val split is nan, so epochs cannot be compared: let it be a number"
            )
        return total / samples

    def _judged(self, outputs: Any, labels: Any) -> float:
        if self.figure is not None:
            return float(self.figure(outputs, labels))
        is_classes = (
            isinstance(outputs, Tensor) and outputs.dim() == 2 and isinstance(labels, Tensor) and labels.dim() == 1
        )
        if is_classes and not labels.is_floating_point():
            return float((outputs.argmax(1) == labels).float().mean())
        return -float(self.loss(outputs, labels))

    def is_worn_out(self, patience: int | None) -> bool:
        """Whether the last epochs of fine-tuning brought nothing."""
        values = [record["val"] for record in self.state.history if record["phase"] == "finetune"]
        return patience is not None and len(values) > patience and max(values[:-patience]) >= max(values[-patience:])

    def line(self) -> str:
        """What is printed of the last epoch."""
        last = self.state.history[-1]
        costs = ", ".join(f"{m.name} {last[m.name]:,g} of {limit:,g}" for m, limit in self.model.budget.limits)
        head = f"{last['phase']} {last['epoch'] + 1}/{self.phases.epochs}"
        return f"{head}: loss {last['loss']:.3f}, val {last['val']:.4f}, {costs}, {last['seconds']:.1f} s"

    def _diverged(self, value: float) -> None:
        self.model = self.wrap()  # of full size: the model may have shrunk since then
        self.model.load_state_dict(self.good)
        where = f"; {self.path} holds it" if self.path is not None and self.state.history else ""
        raise DivergedError(
            f"search: the loss is {value} in epoch {self.phases.epoch + 1}. The model is back where it was before that "
            f"epoch{where}. Try a smaller lr than {self.lr:g}, or look for a NaN in the data",
            self.model,
        )

    def result(self) -> SearchResult:
        """Take the network."""
        if self.state.best is not None:
            self.model.load_state_dict(self.state.best)
        model, history = self.model, self.state.history
        space = model.search_space()["cost"]
        costs = {
            m.name: {"seed": space[m.name]["seed"], "found": space[m.name]["now"], "limit": limit}
            for m, limit in model.budget.limits
        }
        val = self.state.best_val if self.state.best is not None else history[-1]["val"]
        removed = [] if model.shrunk is None else model.shrunk.history
        network = model.eval().arch_export()
        return SearchResult(network, model.arch_structure(), costs, val, history, removed)

    # --- checkpoints

    def _writable(self, checkpoint: str | Path) -> Path:
        from nasopt.export.file import writable

        return writable(checkpoint)

    def save(self) -> None:
        """Replace the checkpoint, atomically."""
        if self.path is None:
            return
        from nasopt.export.file import write_checked

        buffer = io.BytesIO()
        content = {
            "format": _FORMAT,
            "settings": self.settings,
            "model": self.good,
            "optimizer": self.optimizer.state_dict(),
            "phases": self.phases.state_dict(),
            "state": vars(self.state),
            "random": torch.get_rng_state(),
        }
        torch.save(content, buffer)
        write_checked(self.path, buffer.getvalue(), lambda draft: torch.load(draft, weights_only=True))

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if self.path is None or not self.path.exists():
            return
        content = read_checkpoint(self.path, self.device)
        settings, version = content["settings"], content["format"]
        if settings != self.settings or version != _FORMAT:
            raise ConfigError(
                f"search: {self.path} is of another search, {settings} there, {self.settings} here: remove it, or name another"
            )
        try:
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.phases.load_state_dict(content["phases"])
            self.state = _State(**content["state"])
            torch.set_rng_state(content["random"].cpu())
        except Exception as error:
            raise ConfigError(damaged(self.path, error)) from error
        self.good = copy.deepcopy(self.model.state_dict())
