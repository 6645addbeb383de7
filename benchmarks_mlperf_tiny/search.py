"""The run of one method on one task: warm-up, search, export, fine-tuning, with a checkpoint after every epoch."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import nasopt
from benchmarks_mlperf_tiny import processes
from benchmarks_mlperf_tiny.config import RunConfig, start_of, warmup_settings
from benchmarks_mlperf_tiny.data.splits import TaskData
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.files import load_checkpoint, save_checkpoint
from benchmarks_mlperf_tiny.limits import make_budget
from benchmarks_mlperf_tiny.measure import costs
from benchmarks_mlperf_tiny.methods import get_method, wrap
from benchmarks_mlperf_tiny.networks import set_norm_momentum
from benchmarks_mlperf_tiny.outcome import RunResult, RunState
from benchmarks_mlperf_tiny.phases import Phase, plan, rate_of, rising, worn_out
from benchmarks_mlperf_tiny.tasks import Task
from benchmarks_mlperf_tiny.training import CurveWriter, Engine, Progress, Step, epoch_seed
from nasopt.cost import network_cost
from nasopt.errors import ConfigError
from nasopt.methods.nasb import AlternatingSearch, binarize, full_precision

# Batches from which norm statistics are estimated after every epoch of a search: an eighth of those of training, within these.
RECALIBRATION = (2, 8)


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
        warmed_up: file that takes the state after the warm-up, or gives it: runs that differ in strength share it.
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
        self.engine = Engine(task, data, config.device, config.amp, config.batch_size)
        self.state = RunState()
        self.regularizer = self.make_regularizer()
        self.model: Any = None
        self.forward: Any = None  # what runs it in training
        self.schedule: nasopt.PhaseSchedule | None = None  # of the model, where that is a search model
        self.optimizers: list[torch.optim.Optimizer] = []

    def run(self) -> RunResult:
        """Train until the end, from the checkpoint if there is one.

        Raises:
            BenchmarkError: the training diverged.
            CheckpointError: the checkpoint cannot be used, or not be written.
        """
        if self.model is None:
            self.start()
        started = time.monotonic() - self.state.seconds
        while self.state.phase < len(self.phases):
            self.run_phase(started)
            self.leave_phase()
        state = self.state
        if state.best is not None:
            self.model.load_state_dict(state.best)
        test = self.engine.judge(self.model, self.data.test)
        return RunResult(
            self.model, self.data.num_classes, state.structures, state.best_val, test, state.history, state.seconds
        )

    def start(self) -> None:
        """Build what is trained first, or what the checkpoint holds.

        Raises:
            BenchmarkError: the method does not fit the task.
            ConfigError: a budget that cannot be met.
            CheckpointError: the checkpoint cannot be used.
        """
        saved = processes.from_first(self.load() if processes.is_first() else None)
        if saved is not None:
            return self.resume(saved)
        self.model = self.build_network()
        self.enter_phase()

    def make_regularizer(self) -> Any:
        """What every stage pays: a relative cost is that of the task's seed, in later stages, too; of 8 bits in few bits."""
        config, seed, shape = self.config, self.task.seed(self.data.num_classes), self.task.input_shape
        if config.budget is not None:
            return make_budget(config.budget, costs(seed, shape))
        if not config.relative:
            return {config.regularizer: 1.0}
        if config.precision is None:
            return {config.regularizer: 1 / network_cost(seed, config.regularizer, shape)}
        in_bytes = nasopt.MixedPrecision(seed, shape, precision=8, verify=False)
        return {config.regularizer: 1 / in_bytes.get_cost(config.regularizer, discrete=True)}

    def build_network(self) -> nn.Module:
        """The network that the current stage starts from: fresh, or rebuilt from what earlier stages have found."""
        torch.manual_seed(self.config.seed)
        network = start_of(self.config, self.task, self.data.num_classes).to(self.config.device)
        set_norm_momentum(network, self.config.norm_momentum)
        for structure in self.state.structures:
            network = nasopt.restore(network, structure).to(self.config.device)
        return network

    # --- phases

    @property
    def phase(self) -> Phase:  # the current one
        return self.phases[self.state.phase]

    def enter_phase(self) -> None:
        """Prepare model and optimizers for the current phase; these start without momentum."""
        phase, config = self.phase, self.config
        if phase.kind == "pretrain":
            self.model = full_precision(self.model)
        if phase.stage is not None and self.schedule is None:
            stage, share = self.method.stages[phase.stage], config.search // len(self.method.stages)
            steps = share * self.data.train.steps(config.batch_size)
            precision = config.precision if stage is self.method.stages[-1] else None
            search = wrap(stage, self.model, self.task.input_shape, self.regularizer, share, steps, precision)
            self.model = search.to(config.device)
            self.forward = self.parallel()  # before anything is frozen: the schedule comes after it
        if phase.stage is None:
            self.forward = self.parallel()
            self.optimizers = [self.adam(self.model.parameters(), config.lr)]
        elif self.method.is_binary:  # AlternatingSearch has one for each half
            rates = ((self.model.net_parameters(), config.lr), (self.model.arch_parameters(), config.arch_lr))
            self.optimizers = [self.adam(parameters, lr) for parameters, lr in rates]
        else:
            self.optimizers = [self.adam(self.model.param_groups(lr=config.lr, arch_lr=config.arch_lr), config.lr)]
        if phase.stage is not None:
            lengths: dict[str, Any] = {one.kind: one.epochs for one in self.phases if one.stage == phase.stage}
            strength = None if config.budget else rising(config.strength, lengths["search"])
            shrinks = self.model.importance is not None and not config.compile and processes.count() == 1
            shrink = self.optimizers if shrinks else ()
            self.schedule = nasopt.PhaseSchedule(self.model, **lengths, strength=strength, shrink=shrink)
        set_norm_momentum(self.model, config.norm_momentum)  # a search adds norms of its own

    def adam(self, parameters: Any, lr: float) -> torch.optim.Optimizer:
        """In one call per step, where the device has that: small networks spend much of a step in the optimizer."""
        return torch.optim.Adam(parameters, lr=lr, fused=torch.device(self.config.device).type in ("cpu", "cuda"))

    def parallel(self) -> Any:
        """What runs the model in training: compiled, or in step with the other processes."""
        return torch.compile(self.model) if self.config.compile else processes.parallel(self.model)

    def run_phase(self, started: float) -> None:
        """Train the current phase to its end, or until its patience is worn out."""
        phase, state, config = self.phase, self.state, self.config
        steps = self.data.train.steps(config.batch_size)
        label = f"{config.task} {config.method} {phase.kind}"
        progress = Progress(label, phase.epochs, steps, state.epoch, self.quiet, self.task.figure_name)
        alternate = phase.kind == "search" and self.method.is_binary
        step = self.alternating_step() if alternate else self.plain_step()
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]  # network, architecture
        rates = [rate_of(phase.kind, is_arch=index > 0, epochs=phase.epochs) for index in range(len(groups))]
        for group in groups:
            group.setdefault("base_lr", group["lr"])
        try:
            while state.epoch < phase.epochs and not worn_out(state.history, phase, config.patience):
                self.start_epoch()
                for group, rate in zip(groups, rates, strict=True):
                    group["lr"] = group["base_lr"] * rate(state.epoch)
                seed = epoch_seed(config.seed, state.phase, state.epoch)
                loss = self.engine.train_epoch(step, seed, progress, alternate)
                record = self.record_epoch(loss)
                progress.end_epoch(record)
                state.epoch += 1
                state.seconds = time.monotonic() - started
                if state.epoch % self.checkpoint_every == 0:
                    self.save()
        finally:
            progress.close()

    def plain_step(self) -> Step:
        """Of one optimizer; a search pays what its schedule says."""
        if self.schedule is None or self.phase.kind != "search":
            return self.engine.plain_step(self.forward, self.optimizers[0])
        schedule = self.schedule
        plain = self.engine.plain_step(self.forward, self.optimizers[0], schedule.get_regularization_loss)

        def step(number: int, batch: Any) -> Any:
            loss = plain(number, batch)
            schedule.after_step()
            return loss

        return step

    def alternating_step(self) -> Step:
        """Even steps train the architecture, odd ones the weights."""
        assert self.schedule is not None
        network, arch = self.optimizers
        search = AlternatingSearch(self.model, self.engine.criterion, arch_optimizer=arch, weight_optimizer=network)
        forward: Any = self.engine.forward(self.forward)
        search.forward, schedule = forward, self.schedule

        def step(number: int, batch: Any) -> float:
            search.strength = schedule.strength
            return (search.weight_step if number % 2 else search.arch_step)((batch.x, batch))

        return step

    def start_epoch(self) -> None:
        """Set the model to this epoch of its phase; in the last quarter of a search it keeps to its budget."""
        phase, epoch = self.phase, self.state.epoch
        if self.schedule is not None:
            self.schedule.set_epoch(epoch + (self.schedule.warmup if phase.kind == "search" else 0))
            is_late = epoch >= phase.epochs * 3 // 4 and self.model.importance is None
            if phase.kind == "search" and self.config.budget and is_late:
                with contextlib.suppress(ConfigError):  # not every method can choose by a limit
                    self.model.settle_budget()
        self.model.train()

    def record_epoch(self, loss: float) -> dict[str, Any]:
        """Judge the model, keep the best fine-tuned weights, write the history."""
        phase, state = self.phase, self.state
        if phase.kind == "search":  # masks and choices have moved: judge what would be exported now
            batches = self.engine.batches(epoch_seed(self.config.seed, state.phase, state.epoch), alternate=False)
            with processes.whole_batch_norms():
                least, most = RECALIBRATION
                count = max(least, min(self.data.train.steps(self.config.batch_size) // 8, most))
                nasopt.recalibrate(self.model, itertools.islice(batches, count))
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
        costs_now = self.model.search_space()["cost"]
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
            if self.model.importance is not None:
                self.model.settle_budget()  # patience may have ended the search early
            self.state.structures.append(self.model.arch_structure())
            self.model, self.schedule = self.model.arch_export(), None
        self.state.phase += 1
        self.state.epoch = 0
        if self.state.phase < len(self.phases):
            self.enter_phase()
        self.save()
        if warmed_up is not None and processes.is_first():
            save_checkpoint(warmed_up, warmup_settings(self.config), self.as_saved())

    # --- checkpoints

    def load(self) -> dict[str, Any] | None:
        """The checkpoint to go on from, if there is one."""
        saved = load_checkpoint(self.checkpoint, self.config.as_dict()) if self.checkpoint else None
        if saved is None and self.warmed_up:
            saved = load_checkpoint(self.warmed_up, warmup_settings(self.config))
        return saved

    def save(self) -> None:
        """Replace the checkpoint."""
        if self.checkpoint is not None and processes.is_first():
            save_checkpoint(self.checkpoint, self.config.as_dict(), self.as_saved())

    def as_saved(self) -> dict[str, Any]:
        """Everything that a checkpoint holds."""
        return {
            **vars(self.state),
            "structures": json.dumps(self.state.structures),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def resume(self, saved: dict[str, Any]) -> None:
        """Rebuild model and optimizers as they were when `saved` was written."""
        weights, optimizers = saved.pop("model"), saved.pop("optimizers")
        self.state = RunState(**{**saved, "structures": json.loads(saved["structures"])})
        self.model = self.build_network()
        if self.state.phase < len(self.phases):
            self.enter_phase()
            for optimizer, state in zip(self.optimizers, optimizers, strict=True):
                optimizer.load_state_dict(state)
        self.model.load_state_dict(weights)
        if self.schedule is not None and self.state.epoch:  # the epoch that was saved ends when the next one begins
            warmup = self.schedule.warmup if self.phase.kind == "search" else 0
            self.schedule.load_state_dict({"epoch": warmup + self.state.epoch - 1})
