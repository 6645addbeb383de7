"""The Lightning callback under a real `Trainer`: the same training as a loop written by hand, for every method."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from nasopt import PIT, Budget, PhaseSchedule
from nasopt.errors import ConfigError, NoEffectWarning
from nasopt.search.schedule import linear
from unit_test.methods.phase_toys import METHODS, SHAPE, batch, convnet

# Of Lightning itself: about the number of workers, a GPU that is left alone, and its own use of torch.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The 'train_dataloader' does not have many workers",
    "ignore:GPU available but not used",
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated",
)


@functools.cache
def lightning() -> Any:
    """The package: importing it takes seconds, so not while tests are collected."""
    return importlib.import_module("lightning.pytorch")


@functools.cache
def own() -> Any:
    """`nasopt.lightning`, whose callback derives from Lightning's."""
    lightning()
    return importlib.import_module("nasopt.lightning")


def SearchCallback(**options: Any) -> Any:
    return own().SearchCallback(**options)


@functools.cache
def lit_class(package: Any = None) -> Any:
    """A `LightningModule` that knows nothing of the search but its optimizer."""
    package = package or lightning()

    class Lit(package.LightningModule):
        def __init__(self, model: nn.Module, as_dict: bool = False, strength: float = 0.0) -> None:
            super().__init__()
            self.model, self.as_dict, self.strength = model, as_dict, strength

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            torch.manual_seed(100 + self.trainer.current_epoch)
            x, y = batch
            loss = F.cross_entropy(self.model(x), y)
            if self.strength:  # as it would be written without the callback
                loss = loss + self.strength * self.model.get_regularization_loss()
            return {"loss": loss, "more": 1} if self.as_dict else loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.model.param_groups(lr=1e-2, arch_lr=5e-2))

    return Lit


def Lit(*args: Any, **options: Any) -> Any:
    return lit_class()(*args, **options)


@functools.cache
def alternating_class() -> Any:
    """Optimizes manually: architecture and weights take turns, each on a half of the batch."""

    class LitAlternating(lightning().LightningModule):
        def __init__(self, model: nn.Module, search: Any) -> None:
            super().__init__()
            self.model, self.search, self.automatic_optimization = model, search, False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            torch.manual_seed(100 + self.trainer.current_epoch)
            regularizer = self.search.get_regularization_loss if self.search is not None else lambda: 0.0
            alternate(self.model, batch, self.optimizers(), regularizer, self.manual_backward)

        def configure_optimizers(self) -> Any:
            return optimizers(self.model)

    return LitAlternating


def optimizers(model: Any) -> list[torch.optim.Optimizer]:
    return [torch.optim.Adam(model.arch_parameters(), lr=5e-2), torch.optim.SGD(model.net_parameters(), lr=1e-2)]


def alternate(model: Any, batch: Any, both: Any, regularizer: Callable[[], Any], backward: Any) -> None:
    """The architecture on one half of the batch, the weights on the other."""
    x, y = batch
    for first, optimizer in enumerate(both):
        for other in both:
            other.zero_grad()
        loss = F.cross_entropy(model(x[first::2]), y[first::2])
        backward(loss + regularizer() if first == 0 else loss)
        optimizer.step()


def trainer(callbacks: Any = None, epochs: int = 4, package: Any = None, **settings: Any) -> Any:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return (package or lightning()).Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, callbacks=callbacks, **{**quiet, **settings}
    )


def loader(batches: int = 1) -> Any:
    torch.manual_seed(3)
    return DataLoader(TensorDataset(*batch(4 * batches)), batch_size=4)


def make(name: str) -> Any:
    torch.manual_seed(1)
    return METHODS[name]()


def assert_same(model: nn.Module, expected: nn.Module) -> None:
    own = model.state_dict()
    for key, value in expected.state_dict().items():
        assert torch.equal(value, own[key]), key


PHASES: dict[str, Any] = {"warmup": 1, "search": 2, "finetune": 1, "strength": linear(0.5, 1.0, 2)}


def by_hand(model: Any, batches: int = 1, accumulate: int = 1, clip: float | None = None) -> Any:
    """What a plain loop does with `PhaseSchedule`."""
    phases = PhaseSchedule(model.train(), **PHASES)
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-2, arch_lr=5e-2))
    for _ in range(phases.epochs):
        optimizer.zero_grad()
        for index, (x, y) in enumerate(loader(batches)):
            torch.manual_seed(100 + phases.epoch)
            loss = F.cross_entropy(model(x), y) + phases.get_regularization_loss()
            (loss / accumulate).backward()
            if (index + 1) % accumulate == 0:
                if clip is not None:
                    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
                optimizer.step()
                optimizer.zero_grad()
        phases.step()
    return model


@pytest.mark.parametrize("name", ["pit", "supernet", "pit_supernet", "nasb", "pit_widths"])
def test_it_trains_as_a_loop_by_hand(name: str) -> None:
    lit, search = Lit(make(name)), SearchCallback(**PHASES)
    run = trainer([search])
    run.fit(lit, loader())
    expected = by_hand(make(name))
    assert_same(lit.model, expected)
    assert not all(torch.equal(a, b) for a, b in zip(lit.model.arch_parameters(), make(name).arch_parameters()))
    assert search.phases is not None
    assert search.phases.phase == "finetune"
    size = lit.model.regularizer.weights[0][0]
    assert run.callback_metrics[f"search/{size.name}"] == lit.model.get_cost(size, discrete=True)
    assert run.callback_metrics["search/strength"] == 0
    assert ("search/temperature" in run.callback_metrics) == (name not in ("pit", "nasb"))
    lit.model.arch_export()


def test_quantised_models_pass_the_check_before_training(tmp_path: Path) -> None:
    class Judged(lit_class()):  # type: ignore[misc]
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            seen.append(self.model.is_quantised)
            self.model(batch[0])

    seen: list[bool] = []
    lit = Judged(make("pit_widths"))
    run = trainer([SearchCallback(strength=0.5)], epochs=2)
    run.fit(lit, loader(), loader())
    assert seen == [False, True, True]
    run.save_checkpoint(tmp_path / "end.ckpt")
    again = Judged(make("pit_widths"))
    trainer([SearchCallback(strength=0.5)], epochs=3).fit(
        again, loader(), loader(), ckpt_path=str(tmp_path / "end.ckpt"), weights_only=False
    )
    assert seen[3:] == [True, True]  # steps are known where training goes on


@pytest.mark.parametrize("settings", [{"accumulate": 2}, {"clip": 0.05}], ids=str)
def test_accumulation_and_clipping_see_the_regularizer(settings: dict[str, Any]) -> None:
    lit = Lit(make("pit"))
    options = {"accumulate_grad_batches": settings.get("accumulate", 1), "gradient_clip_val": settings.get("clip")}
    trainer([SearchCallback(**PHASES)], **options).fit(lit, loader(batches=2))
    assert_same(lit.model, by_hand(make("pit"), batches=2, **settings))


def test_distributed_data_parallel_trains_through_all_phases() -> None:
    strategy = lightning().strategies.DDPStrategy(process_group_backend="gloo")
    lit = Lit(make("pit"))
    with mock.patch.dict(os.environ):  # the strategy sets addresses and ranks
        try:
            trainer([SearchCallback(**PHASES)], strategy=strategy).fit(lit, loader())
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
    torch.testing.assert_close(lit.model.alpha, by_hand(make("pit")).alpha, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{"precision": "bf16-mixed"}, {"precision": "64-true"}], ids=str)
def test_precision_treats_the_regularizer_as_written_by_hand(options: dict[str, Any]) -> None:
    lit, hand = Lit(make("pit"), as_dict=True), Lit(make("pit"), strength=0.5)
    trainer([SearchCallback(strength=0.5)], epochs=2, **options).fit(lit, loader())
    trainer(epochs=2, **options).fit(hand, loader())
    assert_same(lit.model, hand.model)


def test_what_is_off_leaves_and_validation_sees_statistics_of_today() -> None:
    def small() -> Any:
        torch.manual_seed(1)
        return PIT(convnet(), SHAPE, regularizer=Budget(size=60))

    class Judged(lit_class()):  # type: ignore[misc]
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.model.param_groups(lr=1e-2, arch_lr=0.4))

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            norm = self.model.net.get_submodule("1")
            if self.trainer.current_epoch == 1:  # the search; half a step lies behind the last training batch
                self.model.eval()
                expected = self.model.net.get_submodule("0")(batch[0]).mean((0, 2, 3))
                torch.testing.assert_close(norm.running_mean, expected)

    lit, search = Judged(small()), SearchCallback(warmup=1, search=2, finetune=1, shrink=True, recalibrate=1)
    run = trainer([search], num_sanity_val_steps=0)
    run.fit(lit, loader(), loader())
    assert lit.model.shrunk.history
    assert sum(p.numel() for p in lit.model.net_parameters()) == sum(
        p.numel() for p in lit.model.arch_export().parameters()
    )
    with pytest.raises(ConfigError, match="recalibrate must be an int"):
        SearchCallback(recalibrate=-1)


@pytest.mark.parametrize("name", ["StochasticWeightAveraging", "EMAWeightAveraging", "WeightAveraging"])
def test_averages_of_weights_and_shrinking_do_not_go_together(name: str) -> None:
    average = getattr(lightning().callbacks, name, None)
    if average is None:
        pytest.skip("an older Lightning")
    average = average(swa_lrs=1e-2) if name == "StochasticWeightAveraging" else average()
    search = SearchCallback(search=2, finetune=1, shrink=True, strength=0.1)
    with pytest.raises(ConfigError, match=f"{name} averages weights that lose channels"):
        trainer([search, average]).fit(Lit(make("pit")), loader())


def test_alternating_steps_under_manual_optimization() -> None:
    search = SearchCallback(strength=0.5)
    lit = alternating_class()(make("nasb"), search)
    trainer([search], epochs=2).fit(lit, loader())
    model = make("nasb").train()
    both = optimizers(model)
    for epoch in range(2):
        for pair in loader():
            torch.manual_seed(100 + epoch)
            alternate(model, pair, both, lambda: 0.5 * model.get_regularization_loss(), Tensor.backward)
    assert_same(lit.model, model)
    with pytest.warns(NoEffectWarning, match="LitAlternating optimizes manually and has not used the regularizer"):
        trainer([SearchCallback(strength=0.5)], epochs=1).fit(alternating_class()(make("nasb"), None), loader())


@pytest.mark.parametrize(("name", "epochs"), [("pit_supernet", 2), ("pit_widths", 1), ("pit_widths", 2)])
def test_a_checkpoint_goes_on_in_its_phase(tmp_path: Path, name: str, epochs: int) -> None:
    first = Lit(make(name))
    run = trainer([SearchCallback(**PHASES)], epochs=epochs)
    run.fit(first, loader())
    run.save_checkpoint(tmp_path / "stopped.ckpt")
    again, search = Lit(make(name)), SearchCallback(**PHASES)
    assert search.state_dict() == {}
    trainer([search]).fit(again, loader(), ckpt_path=str(tmp_path / "stopped.ckpt"), weights_only=False)
    assert_same(again.model, by_hand(make(name)))
    assert search.state_dict() == {"epoch": 3}
    saved = torch.load(tmp_path / "stopped.ckpt", weights_only=False)["callbacks"]
    assert saved == {search.state_key: {"epoch": epochs - 1}}


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_the_module_gets_its_own_step_back() -> None:
    lit = Lit(make("pit"))
    trainer([SearchCallback(strength=0.5)], epochs=1).fit(lit, loader())
    assert "training_step" not in vars(lit)

    class Stop(lightning().Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            assert "training_step" in vars(lit)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        trainer([SearchCallback(strength=0.5), Stop()], epochs=1).fit(lit, loader())
    assert "training_step" not in vars(lit)
    skipped = lit.training_step = lambda batch, batch_idx: None
    before = [p.detach().clone() for p in lit.parameters()]
    trainer([SearchCallback(strength=0.5)], fast_dev_run=True).fit(lit, loader())
    assert vars(lit)["training_step"] is skipped
    assert all(torch.equal(a, b) for a, b in zip(before, lit.parameters()))


def test_two_search_models_have_a_callback_each() -> None:
    class Two(lit_class()):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(make("pit"))
            self.other = make("pit")

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            torch.manual_seed(0)
            return F.cross_entropy(self.model(batch[0]), batch[1]) + F.cross_entropy(self.other(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            groups = [
                group for model in (self.model, self.other) for group in model.param_groups(lr=1e-2, arch_lr=5e-2)
            ]
            return torch.optim.SGD(groups)

    two = Two()
    with pytest.raises(ConfigError, match=r"in Two \('model', 'other'\) there are 2\. Name one with"):
        trainer([SearchCallback(strength=0.5)], epochs=1).fit(two, loader())
    callbacks = [SearchCallback(model="model", strength=0.5), SearchCallback(model="other", strength=2.0)]
    trainer(callbacks, epochs=1).fit(two, loader())
    assert "training_step" not in vars(two)
    assert bool((two.other.alpha < two.model.alpha).all())  # equal but for the strength
    with pytest.raises(ConfigError, match=r"none is called 'modle'.*Did you mean 'model'"):
        own().find_search_model(two, "modle")


def test_clear_errors_before_training_starts() -> None:
    def fails(match: str, lit: Any, **arguments: Any) -> None:
        with pytest.raises(ConfigError, match=match):
            trainer([SearchCallback(**arguments)], epochs=3).fit(lit, loader())

    class NoArch(lit_class()):  # type: ignore[misc]
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.model.net_parameters(), lr=0.1)

    class Plain(lit_class()):  # type: ignore[misc]
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    fails("Plain holds no search model", Plain(convnet()), strength=1.0)
    fails("no optimizer holds the architecture parameter 'alpha' of PIT", NoArch(make("pit")), strength=1.0)
    fails("needs a strength", Lit(make("pit")))
    fails(
        "max_epochs=3, and warmup=2 and finetune=1 leave no epoch", Lit(make("pit")), strength=1, warmup=2, finetune=1
    )
    with pytest.raises(ConfigError, match=r"before trainer\.fit"):
        SearchCallback(strength=1.0).get_regularization_loss()


def test_the_other_lightning_package() -> None:
    lightning()
    import pytorch_lightning as P

    lit = lit_class(P)(make("pit"))
    trainer([SearchCallback(**PHASES)], package=P).fit(lit, loader())
    assert_same(lit.model, by_hand(make("pit")))
    made = own()._callback_class()  # both are loaded now
    assert issubclass(made, P.Callback)
    assert issubclass(made, lightning().Callback)


def test_missing_lightning_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    callback_class = own()._callback_class
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ImportError, match=r"nasopt\.lightning needs the package 'lightning.*pip install \"nasopt\[lightning\]"
    ):
        callback_class()
