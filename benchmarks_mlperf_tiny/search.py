"""One search loop for all tasks and methods: warm-up, search, export, fine-tune; a checkpoint behind every epoch."""

from __future__ import annotations

import contextlib
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

import nasopt
from benchmarks_mlperf_tiny import processes
from benchmarks_mlperf_tiny.budgets import make_budget
from benchmarks_mlperf_tiny.checkpoint import load_checkpoint, save_checkpoint
from benchmarks_mlperf_tiny.config import RunConfig, warmup_settings
from benchmarks_mlperf_tiny.data.splits import TaskData
from benchmarks_mlperf_tiny.epoch import Engine, epoch_seed
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.measure import costs
from benchmarks_mlperf_tiny.methods import SearchModel, get_method, wrap
from benchmarks_mlperf_tiny.networks import set_norm_momentum
from benchmarks_mlperf_tiny.phases import Phase, plan, worn_out
from benchmarks_mlperf_tiny.progress import Progress
from benchmarks_mlperf_tiny.run_state import RunResult, RunState
from benchmarks_mlperf_tiny.task import Task
from benchmarks_mlperf_tiny.tensorboard import CurveWriter
from nasopt.cost import network_cost
from nasopt.errors import ConfigError
from nasopt.methods.nasb import binarize, full_precision


class Run:
    """One run of one method on one task.

    Args:
        config: settings.
        task: of that name.
        data: loaded.
        checkpoint: file to save to and, if it exists, to go on from; None: keep nothing.
        checkpoint_every: epochs between two checkpoints; the end of a phase always has one.
        quiet: show no progress.
        curves: told of every epoch, or None.
        warmed_up: file that takes the state behind the warm-up, or gives it: runs that differ in strength share it.
    """

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        data: TaskData,
        checkpoint: Path | None = None,
        checkpoint_every: int = 1,
        quiet: bool = False,
        curves: CurveWriter | None = None,
        warmed_up: Path | None = None,
    ) -> None:
        self.config, self.task, self.data = config, task, data
        self.checkpoint, self.checkpoint_every = checkpoint, checkpoint_every
        self.quiet = quiet or not processes.is_first()
        self.curves, self.warmed_up = curves, warmed_up
        self.method = get_method(config.method)
        self.phases = plan(config, self.method)
        if config.compile and processes.count() > 1:
            raise BenchmarkError("--compile is for one process: leave it out under torchrun")
        self.factory = self.choose_factory()
        self.engine = Engine(task, data, config.device, config.amp, config.batch_size)
        self.state = RunState()
        self.regularizer = self.make_regularizer()
        self.model: nn.Module = nn.Identity()
        self.optimizer: torch.optim.Optimizer | None = None

    def run(self) -> RunResult:
        """Train until the end, from the checkpoint if there is one.

        Raises:
            BenchmarkError: the training diverged.
            CheckpointError: the checkpoint cannot be used, or not be written.
        """
        started = time.monotonic()
        saved = processes.from_first(self.load() if processes.is_first() else None)
        if saved is None:
            self.model = self.build_network()
            self.enter_phase()
        else:
            self.resume(saved)
        earlier = self.state.seconds
        while self.state.phase < len(self.phases):
            self.run_phase(started - earlier)
            self.leave_phase()
        if self.state.best is not None:
            self.model.load_state_dict(self.state.best)
        return RunResult(
            self.model,
            self.state.structures,
            self.state.best_val,
            self.engine.judge(self.model, self.data.test),
            self.state.history,
            self.state.seconds,
        )

    def load(self) -> dict[str, Any] | None:
        """The checkpoint to go on from, if there is one."""
        saved = load_checkpoint(self.checkpoint, self.config.as_dict()) if self.checkpoint else None
        if saved is None and self.warmed_up:
            saved = load_checkpoint(self.warmed_up, warmup_settings(self.config))
        return saved

    def choose_factory(self) -> Callable[[int], nn.Module]:
        """What the first stage wraps.

        Raises:
            BenchmarkError: the method needs a supernet and the task has none.
        """
        if not self.method.stages or self.method.stages[0].start == "seed":
            return self.task.seed
        if self.task.supernet is None:
            raise BenchmarkError(
                f"method {self.method.name!r} needs a supernet, task {self.task.name!r} has none: try pit"
            )
        return self.task.supernet

    def make_regularizer(self) -> Any:
        """What every stage pays: with a relative cost it is that of the task's seed that counts as 1, in later stages, too."""
        config, seed, shape = self.config, self.task.seed(self.data.num_classes), self.task.input_shape
        if config.budget is not None:
            return make_budget(config.budget, costs(seed, shape))
        return {config.regularizer: 1 / network_cost(seed, config.regularizer, shape) if config.relative else 1.0}

    def build_network(self) -> nn.Module:
        """The network that the current stage starts from: fresh, or rebuilt from what earlier stages have found."""
        torch.manual_seed(self.config.seed)
        network = self.factory(self.data.num_classes).to(self.config.device)
        set_norm_momentum(network, self.config.norm_momentum)
        for structure in self.state.structures:
            network = nasopt.restore(network, structure).to(self.config.device)
        return network

    @property
    def phase(self) -> Phase:
        """The current one."""
        return self.phases[self.state.phase]

    def enter_phase(self) -> None:
        """Prepare model and optimizer for the current phase; both start without momentum."""
        phase, config = self.phase, self.config
        if phase.kind == "pretrain":
            self.model = full_precision(self.model)
        if phase.stage is not None:
            if not hasattr(self.model, "arch_export"):
                stage, epochs = self.method.stages[phase.stage], config.search // len(self.method.stages)
                search = wrap(stage, self.model, self.task.input_shape, self.regularizer, epochs)
                self.model = cast(nn.Module, search).to(config.device)
            model = self.search_model
            if phase.kind == "search":
                model.unfreeze_arch()
                self.optimizer = torch.optim.Adam(model.param_groups(lr=config.lr, arch_lr=config.arch_lr))
            else:
                model.freeze_arch()
                self.optimizer = torch.optim.Adam(model.net_parameters(), lr=config.lr)
        else:
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.lr)
        set_norm_momentum(self.model, config.norm_momentum)  # a search adds norms of its own

    @property
    def search_model(self) -> SearchModel:
        """The current model, which is a search model."""
        return cast(SearchModel, self.model)

    def run_phase(self, started: float) -> None:
        """Train the current phase to its end, or until its patience is worn out."""
        phase, state, config = self.phase, self.state, self.config
        assert self.optimizer is not None
        label = f"{config.task} {config.method} {phase.kind}"
        steps = self.data.train.steps(config.batch_size)
        progress = Progress(label, phase.epochs, steps, state.epoch, self.quiet, self.task.figure_name)
        forward = torch.compile(self.model) if config.compile else processes.parallel(self.model)
        penalty = self.penalty if phase.kind == "search" else None
        turn = self.take_turn if phase.kind == "search" and self.method.is_binary else None
        base = [group["lr"] for group in self.optimizer.param_groups] if state.epoch == 0 else None
        try:
            while state.epoch < phase.epochs and not worn_out(state.history, phase, config.patience):
                for index, group in enumerate(self.optimizer.param_groups):
                    if base is not None:
                        group.setdefault("base_lr", base[index])
                    factor = phase.lr_factor if index == 0 else phase.arch_lr_factor  # `param_groups`: net, arch
                    group["lr"] = group["base_lr"] * factor(state.epoch)
                if phase.kind == "search" and hasattr(self.model, "set_epoch"):
                    self.model.set_epoch(state.epoch)  # type: ignore[operator]
                if phase.kind == "search" and config.budget and state.epoch >= phase.epochs * 3 // 4:
                    with contextlib.suppress(ConfigError):  # not every method can choose by a limit
                        self.search_model.settle_budget()
                self.model.train()
                seed = epoch_seed(config.seed, state.phase, state.epoch)
                loss = self.engine.train_epoch(forward, penalty, self.optimizer, seed, progress, turn)
                record = self.record_epoch(loss)
                progress.end_epoch(record)
                state.epoch += 1
                state.seconds = time.monotonic() - started
                if state.epoch % self.checkpoint_every == 0:
                    self.save()
        finally:
            progress.close()

    def take_turn(self, step: int) -> None:
        """Let an even step of the search train the architecture alone, an odd one the weights alone."""
        model = self.search_model
        if step % 2:
            model.freeze_arch()
            model.unfreeze_net()
        else:
            model.unfreeze_arch()
            model.freeze_net()

    def penalty(self) -> Tensor:
        """What the search adds to the loss."""
        if self.config.budget is not None:
            return self.search_model.get_regularization_loss()
        strength = self.config.strength * self.phase.strength_factor(self.state.epoch)
        return strength * self.search_model.get_regularization_loss()

    def record_epoch(self, loss: float) -> dict[str, Any]:
        """Judge the model, keep the best fine-tuned weights, write the history."""
        phase, state = self.phase, self.state
        val = self.engine.judge(self.model, self.data.val)
        record: dict[str, Any] = {"phase": phase.name, "epoch": state.epoch, "loss": loss, "val": val}
        if phase.kind == "search":
            record |= self.cost_record()
        if phase.kind == "finetune" and val >= state.best_val:
            state.best_val, state.best = val, copy.deepcopy(self.model.state_dict())
        state.history.append(record)
        if self.curves is not None:
            self.curves.write(record, len(state.history))
        return record

    def cost_record(self) -> dict[str, float]:
        """Cost as a share of the seed's; with a budget, that of the limit in greatest use, and the limit."""
        costs_now = self.search_model.search_space()["cost"]
        if self.config.budget is None:
            cost = costs_now[self.config.regularizer]
            return {"cost": cost["now"] / cost["seed"]}
        metric, limit = max(self.regularizer.limits, key=lambda pair: costs_now[pair[0].name]["now"] / pair[1])
        cost = costs_now[metric.name]
        return {"cost": cost["now"] / cost["seed"], "budget": limit / cost["seed"]}

    def leave_phase(self) -> None:
        """Take what a search has found, go to the next phase, save."""
        warmed_up = self.warmed_up if self.phase.kind == "warmup" else None
        if self.phase.kind == "pretrain":
            self.model = binarize(self.model)
        if self.phase.kind == "search":
            self.search_model.unfreeze_net()
            self.state.structures.append(self.search_model.arch_structure())
            self.model = self.search_model.arch_export()
        self.state.phase += 1
        self.state.epoch = 0
        if self.state.phase < len(self.phases):
            self.enter_phase()
        self.save()
        if warmed_up is not None and processes.is_first():
            save_checkpoint(warmed_up, warmup_settings(self.config), self.as_saved())

    def save(self) -> None:
        """Replace the checkpoint."""
        if self.checkpoint is not None and processes.is_first():
            save_checkpoint(self.checkpoint, self.config.as_dict(), self.as_saved())

    def as_saved(self) -> dict[str, Any]:
        """Everything that a checkpoint holds."""
        assert self.optimizer is not None
        state = {**vars(self.state), "structures": json.dumps(self.state.structures)}
        state["model"] = self.model.state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        return state

    def resume(self, saved: dict[str, Any]) -> None:
        """Rebuild model and optimizer as they were when `saved` was written."""
        weights, optimizer = saved.pop("model"), saved.pop("optimizer")
        self.state = RunState(**{**saved, "structures": json.loads(saved["structures"])})
        self.model = self.build_network()
        if self.state.phase < len(self.phases):
            self.enter_phase()
            assert self.optimizer is not None
            self.model.load_state_dict(weights)
            self.optimizer.load_state_dict(optimizer)
        else:
            self.model.load_state_dict(weights)
