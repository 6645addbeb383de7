"""SearchCallback for Lightning: adds the regularizer, leads through the phases, logs costs.

```python
from nasopt.lightning import SearchCallback


class Digits(LightningModule):
    def __init__(self):
        super().__init__()
        self.model = PIT(seed, (1, 8, 8), regularizer="macs", relative=True)

    def training_step(self, batch, _):
        x, y = batch
        return F.cross_entropy(self.model(x), y)  # the callback adds the regularizer

    def configure_optimizers(self):
        return torch.optim.Adam(self.model.param_groups(lr=1e-3, arch_lr=1e-2))


trainer = Trainer(max_epochs=60, callbacks=[SearchCallback(warmup=5, finetune=15, strength=0.1)])
trainer.fit(digits, loader)
network = digits.model.arch_export()
```
"""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from nasopt.arguments import check_count, check_flag
from nasopt.errors import ConfigError, MissingExtraError, NoEffectWarning, nearest
from nasopt.extras import import_extra
from nasopt.search.model import SearchModel
from nasopt.search.parameters import ParameterHalves
from nasopt.search.phases import PhaseSchedule
from nasopt.search.recalibrate import recalibrate
from nasopt.search.schedule import Schedule

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
_AVERAGES = {"WeightAveraging", "StochasticWeightAveraging"}
"""Callbacks of Lightning that keep a copy of the weights."""


def _callback_class() -> Any:
    """`Callback` of the Lightning that is in use; of both, if both are. They are twins with separate classes."""
    modules = [module for name in _PACKAGES if (module := sys.modules.get(name)) is not None]
    if not modules:
        try:
            modules = [import_extra(_PACKAGES[0], "lightning", "nasopt.lightning")]
        except MissingExtraError as missing:
            try:
                modules = [import_extra(_PACKAGES[1], "lightning", "nasopt.lightning")]
            except MissingExtraError:
                raise missing from None
    classes = tuple(dict.fromkeys(module.Callback for module in modules))
    return classes[0] if len(classes) == 1 else type("Callback", classes, {})


class SearchCallback(_callback_class()):  # type: ignore[misc]
    """Searches with a `LightningModule` that holds a search model; works with `lightning` and `pytorch_lightning`.

    With automatic optimization it adds `strength * get_regularization_loss()` to what `training_step` returns, so precision,
    gradient accumulation, clipping and distributed strategies treat it as if you had written it there. With manual
    optimization add `callback.get_regularization_loss()` yourself, to the loss of the step that trains the architecture.

    At the start of every epoch it does what `PhaseSchedule` describes, at its end it logs `search/strength`,
    `search/temperature` where there is one, and as `search/<metric>` the exact cost of what `arch_export` would give now.
    Checkpoints hold the epoch; a resumed run goes on in the same phase.

    Args:
        strength, warmup, finetune: as of `PhaseSchedule`.
        search: epochs; None: all that the trainer's `max_epochs` leaves.
        model: where the search model is, as a dotted name inside the `LightningModule`; None: the only one there.
        shrink: units that are off for good leave the model, and the trainer's optimizers, after every epoch of the search;
            for one process, see `SearchModel.shrink`.
        eliminate: the least probable branches leave at the ends of the search's epochs, see `PhaseSchedule`.
        recalibrate: batches of training, from which norm statistics are estimated before a validation in the search, so that
            its figures are those of the network that would be exported; 0: none. Their first entry is the model's input.

    Attributes:
        phases: the `PhaseSchedule`, from the start of `fit` on.

    Raises:
        ConfigError: at the start of `fit`: none or several search models, lengths that do not fit `max_epochs`, a strength
            that is missing or negative.
    """

    def __init__(
        self,
        strength: float | Schedule | None = None,
        *,
        warmup: int = 0,
        search: int | None = None,
        finetune: int = 0,
        model: str | None = None,
        shrink: bool = False,
        eliminate: bool = False,
        recalibrate: int = 0,
    ) -> None:
        super().__init__()
        self.eliminate = check_flag("SearchCallback: eliminate", eliminate)
        self.shrink, self.recalibrate = check_flag("SearchCallback: shrink", shrink), recalibrate
        check_count("SearchCallback: recalibrate", recalibrate)
        self.strength, self.warmup, self.search, self.finetune, self.model = strength, warmup, search, finetune, model
        self.phases: PhaseSchedule | None = None
        self._loaded: dict[str, Any] = {}
        self._is_used = False

    def get_regularization_loss(self) -> Tensor:
        """For manual optimization: the regularizer times the strength of this epoch, 0 outside the search.

        Raises:
            ConfigError: no `fit` has started.
        """
        if self.phases is None:
            raise ConfigError("SearchCallback: there is no regularizer before trainer.fit(...) has started")
        self._is_used = True
        return self.phases.get_regularization_loss()

    # --- hooks of Lightning

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Find the search model, start the phases, add the regularizer to the loss."""
        model = find_search_model(pl_module, self.model)
        _check_optimizers(model, trainer.optimizers)
        search = self.search if self.search is not None else self._epochs_left(trainer)
        if (self.shrink or self.eliminate) and trainer.world_size > 1:
            raise ConfigError(
                f"SearchCallback: {'shrink' if self.shrink else 'eliminate'}=True is for one process: DistributedDataParallel "
                "would have to be built anew after every "
                "epoch. Leave it out, or call model.shrink() in a loop of your own"
            )
        kinds = {base.__name__: type(one).__name__ for one in trainer.callbacks for base in type(one).__mro__}
        if (self.shrink or self.eliminate) and (average := kinds.keys() & _AVERAGES):
            raise ConfigError(
                f"SearchCallback: {kinds[average.pop()]} averages weights that lose channels or branches in the search: leave "
                "out shrink and eliminate, or average in the training of what was found"
            )
        self.phases = PhaseSchedule(
            model,
            warmup=self.warmup,
            search=search,
            finetune=self.finetune,
            strength=self.strength,
            shrink=trainer.optimizers if self.shrink else (),
            eliminate=self.eliminate,
        )
        if self._loaded:
            self.phases.load_state_dict(self._loaded)
        self._is_used = bool(pl_module.automatic_optimization)
        if self._is_used:
            RegularizedStep.of(pl_module).terms.append(self.get_regularization_loss)

    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:
        """Before any batch of training a quantised model has no steps: it is looked at in floats."""
        assert self.phases is not None
        model = self.phases.model
        if model.is_quantised and not model.is_calibrated:
            model.quantise(False)  # until the first epoch starts

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Go to the trainer's epoch."""
        assert self.phases is not None
        self.phases.set_epoch(trainer.current_epoch)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Estimate the statistics of norms, in a search."""
        if (
            self.recalibrate
            and self.phases is not None
            and self.phases.phase == "search"
            and not trainer.sanity_checking
        ):
            recalibrate(self.phases.model, itertools.islice(trainer.train_dataloader, self.recalibrate))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log costs."""
        assert self.phases is not None
        if self.phases.strength and not self._is_used:
            warnings.warn(
                f"{type(pl_module).__name__} optimizes manually and has not used the regularizer in epoch "
                f"{self.phases.epoch}, so the search has no reason to make the network smaller: add "
                "callback.get_regularization_loss() to the loss of the step that trains the architecture",
                NoEffectWarning,
                stacklevel=2,
            )
        if not trainer.barebones:
            pl_module.log_dict(self._figures(self.phases), sync_dist=True)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the `LightningModule` as it was."""
        self._leave(pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the `LightningModule` as it was."""
        self._leave(pl_module)

    @property
    def state_key(self) -> str:
        """Name of the state in a checkpoint; it tells callbacks of several search models apart."""
        return f"SearchCallback{{'model': {self.model!r}}}"

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: the epoch."""
        return {} if self.phases is None else self.phases.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint; Lightning calls it before `on_fit_start`."""
        self._loaded = dict(state_dict)

    # --- inside

    def _epochs_left(self, trainer: Any) -> int:
        if trainer.fast_dev_run:
            return 1
        max_epochs, others = trainer.max_epochs, self.warmup + self.finetune
        if max_epochs is None or max_epochs <= others:
            raise ConfigError(
                f"SearchCallback: the trainer has max_epochs={max_epochs}, and warmup={self.warmup} and finetune="
                f"{self.finetune} leave no epoch for the search. Give Trainer(max_epochs=...) more than {others}, or "
                "SearchCallback(search=...)"
            )
        return max_epochs - others

    def _figures(self, phases: PhaseSchedule) -> dict[str, float]:
        model = phases.model
        figures = {"search/strength": phases.strength}
        if model.choices is not None and model.origin is None:
            figures["search/temperature"] = model.temperature
        for metric, _ in model.regularizer.weights:
            figures[f"search/{metric.name}"] = float(model.get_cost(metric, discrete=True))
        return figures

    def _leave(self, pl_module: Any) -> None:
        step = pl_module.__dict__.get("training_step")
        if isinstance(step, RegularizedStep):
            step.remove(self.get_regularization_loss, pl_module)


class RegularizedStep:
    """Stands in for the `training_step` of a `LightningModule` during `fit`: its loss, plus regularizers.

    Attributes:
        terms: of every callback that searches in this module.
    """

    def __init__(self, step: Any, own: Any) -> None:
        self.__wrapped__ = step  # Lightning reads the arguments of what is wrapped
        self.own = own
        self.terms: list[Callable[[], Tensor]] = []

    @staticmethod
    def of(pl_module: Any) -> RegularizedStep:
        """That of a module, which is put in place if there is none."""
        own = pl_module.__dict__.get("training_step")
        if isinstance(own, RegularizedStep):
            return own
        pl_module.training_step = made = RegularizedStep(pl_module.training_step, own)
        return made

    def remove(self, term: Callable[[], Tensor], pl_module: Any) -> None:
        """Take a term out; with the last one the module gets its own step back."""
        self.terms = [other for other in self.terms if other != term]
        if not self.terms:
            del pl_module.training_step
            if self.own is not None:
                pl_module.training_step = self.own

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the step returns, a loss, a dict with a `"loss"`, or None to skip the batch; with all terms added."""
        output = self.__wrapped__(*args, **kwargs)
        for term in self.terms:
            if isinstance(output, Tensor):
                output = output + term()
            elif isinstance(output, Mapping) and isinstance(output.get("loss"), Tensor):
                output = {**output, "loss": output["loss"] + term()}
        return output


def find_search_model(module: nn.Module, name: str | None = None) -> SearchModel:
    """The search model of that name inside a module; the only one there, without a name.

    Raises:
        ConfigError: there is none, or there are several.
    """
    owner = type(module).__name__
    found: dict[str, Any] = {
        path: inner for path, inner in module.named_modules() if isinstance(inner, ParameterHalves)
    }
    if not found:
        raise ConfigError(
            f"SearchCallback: {owner} holds no search model, so there is nothing to search. Wrap its network, e.g. "
            "self.model = nasopt.PIT(network, input_shape) in __init__ or configure_model; to train a found network, "
            "leave the callback out"
        )
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        wanted = f"none is called {name!r}" if name is not None else f"there are {len(found)}"
        hint = nearest(name, found) if name is not None else ""
        raise ConfigError(
            f"SearchCallback: of the search models in {owner} ({', '.join(map(repr, found))}) {wanted}. Name one with "
            f"SearchCallback(model=...); several need a callback each.{hint}"
        )
    return found[name]


def _check_optimizers(model: SearchModel, optimizers: Any) -> None:
    trained = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_arch_parameters():
        if id(parameter) not in trained:
            raise ConfigError(
                f"SearchCallback: no optimizer holds the architecture parameter {name!r} of {type(model).__name__}, so "
                "nothing would be searched. In configure_optimizers: torch.optim.Adam(self.model.param_groups(lr=..., "
                "arch_lr=...))"
            )
