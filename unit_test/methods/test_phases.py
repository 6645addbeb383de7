"""`PhaseSchedule`: what it freezes, steps and weighs in which epoch; a resumed run goes on as if it had not stopped."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from nasopt import PIT, Budget, PhaseSchedule
from nasopt.errors import ConfigError
from nasopt.search.schedule import linear
from unit_test.methods.phase_toys import METHODS, SHAPE, batch, convnet, nasb


def train(model: Any, phases: PhaseSchedule, optimizer: torch.optim.Optimizer, set_to_none: bool = True) -> None:
    """One epoch of one batch, with random numbers of its own."""
    torch.manual_seed(100 + phases.epoch)
    x, y = batch()
    model.train()
    optimizer.zero_grad(set_to_none)
    (F.cross_entropy(model(x), y) + phases.get_regularization_loss()).backward()
    optimizer.step()
    phases.step()


def arch(model: Any) -> list[Tensor]:
    return [p.detach().clone() for p in model.arch_parameters()]


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_only_a_search_moves_the_architecture(make: Callable[[], Any]) -> None:
    model = make()
    phases = PhaseSchedule(model, warmup=2, search=3, finetune=2, strength=0.5)
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-2, arch_lr=1e-2))
    moved, seen = [], []
    for _ in range(phases.epochs):
        seen.append((phases.phase, phases.strength))
        before, weights = arch(model), copy.deepcopy(list(model.net_parameters()))
        train(model, phases, optimizer, set_to_none=False)  # momentum moves whatever has a gradient, even one of 0
        moved.append(any(not torch.equal(a, b) for a, b in zip(before, arch(model))))
        assert any(not torch.equal(a, b) for a, b in zip(weights, model.net_parameters()))
    assert seen == [("warmup", 0.0)] * 2 + [("search", 0.5)] * 3 + [("finetune", 0.0)] * 2
    assert moved == [False] * 2 + [True] * 3 + [False] * 2
    assert (phases.epoch, phases.epochs, phases.phase) == (7, 7, "finetune")


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_fine_tuning_trains_what_export_gives(make: Callable[[], Any]) -> None:
    model = make()
    with torch.no_grad():
        for parameter in model.arch_parameters():
            parameter.copy_(torch.rand_like(parameter))
    phases = PhaseSchedule(model, search=2, finetune=1, strength=1.0)
    phases.set_epoch(2)
    if model.precision is not None:
        model.calibrate([batch()[0]])
    network = model.eval().arch_export().train()
    x, _ = batch()
    generator = torch.get_rng_state()
    torch.testing.assert_close(model.train()(x), network(x))
    assert torch.equal(torch.get_rng_state(), generator)  # nothing was drawn
    assert float(model.get_cost("size").detach()) == model.get_cost("size", discrete=True)
    model.unfreeze_arch()
    assert all(p.requires_grad for p in model.arch_parameters())


@pytest.mark.parametrize(
    ("name", "stop"),
    [
        ("pit", 1),
        ("pit", 3),
        ("pit", 5),
        ("pit_supernet", 3),
        ("nasb", 3),
        ("pit_widths", 1),
        ("pit_widths", 2),
        ("pit_widths", 3),
    ],
)
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(name: str, stop: int) -> None:
    def start() -> tuple[Any, PhaseSchedule, torch.optim.Optimizer]:
        torch.manual_seed(1)
        model = METHODS[name]()
        phases = PhaseSchedule(model, warmup=2, search=2, finetune=2, strength=linear(0.1, 1.0, 2))
        return model, phases, torch.optim.Adam(model.param_groups(lr=1e-2, arch_lr=1e-1))

    def run(parts: tuple[Any, PhaseSchedule, torch.optim.Optimizer], epochs: int) -> None:
        for _ in range(epochs):
            train(*parts)

    through, first, second = start(), start(), start()
    run(through, 6)
    run(first, stop)
    for old, new in zip(first, second):
        new.load_state_dict(copy.deepcopy(old.state_dict()))
    run(second, 6 - stop)
    assert second[1].epoch == 6
    for key, value in through[0].state_dict().items():
        assert torch.equal(value, second[0].state_dict()[key]), key


def test_schedules_count_from_the_first_epoch_of_the_search() -> None:
    model = METHODS["supernet"]()
    phases = PhaseSchedule(model, warmup=2, search=3, finetune=1, strength=linear(0.0, 1.0, epochs=2))
    seen = []
    for _ in range(phases.epochs):
        seen.append((round(model.temperature, 4), phases.strength))
        phases.step()
    warm = [(5.0, 0.0)] * 2
    assert seen == [*warm, (5.0, 0.0), (2.3208, 0.5), (1.0772, 1.0), (0.5, 0.0)]
    masks = METHODS["pit_supernet"]()
    phases = PhaseSchedule(masks, warmup=1, search=3, strength=1.0, freeze={"masks": 2})
    frozen = []
    for _ in range(5):
        frozen.append("alpha" in masks.held)
        phases.step()
    assert frozen == [True, True, True, False, False]
    assert phases.phase == "search"  # without fine-tuning the search goes on


def test_the_loss_is_the_weighted_regularizer() -> None:
    model = METHODS["pit"]()
    phases = PhaseSchedule(model, warmup=1, search=1, strength=0.25)
    assert float(phases.get_regularization_loss()) == 0
    assert not phases.get_regularization_loss().requires_grad
    phases.step()
    loss = phases.get_regularization_loss()
    assert float(loss.detach()) == pytest.approx(0.25)  # relative=True: the seed costs 1
    loss.backward()
    own = model.alpha.grad.clone()
    model.alpha.grad = None
    (0.25 * model.get_regularization_loss()).backward()
    assert torch.equal(model.alpha.grad, own)


def test_a_budget_needs_no_strength_and_is_settled_before_fine_tuning() -> None:
    model = PIT(convnet(), SHAPE, regularizer=Budget(size=60))
    phases = PhaseSchedule(model, warmup=1, search=1, finetune=1)
    assert model.get_cost("size", discrete=True) > 60
    strengths = []
    for _ in range(3):
        strengths.append(phases.strength)
        train(model, phases, torch.optim.SGD(model.parameters(), 1e-6))
    assert strengths == [0.0, 1.0, 0.0]
    assert model.get_cost("size", discrete=True) <= 60
    cells = nasb(regularizer=Budget(ops=4_150))
    for node in (1, 2):
        cells.choose("3", node - 1, node, "conv_3x3")
    # The stem's 3,888 MACs, the head's 12, and four binary convolutions of 4 * 4 * 9 * 36 MACs, 64 of which count as one.
    assert cells.get_cost("ops", discrete=True) == 4_224
    PhaseSchedule(cells, search=1, finetune=1).set_epoch(1)
    assert cells.get_cost("ops", discrete=True) == 4_224 - 81


def test_decided_units_leave_at_the_ends_of_epochs() -> None:
    runs = []
    for shrinks in (False, True):
        torch.manual_seed(0)
        model = PIT(convnet(), SHAPE, regularizer=Budget(size=60)).double()
        optimizer = torch.optim.Adam(model.param_groups(lr=1e-2, arch_lr=0.2))
        phases = PhaseSchedule(model, warmup=1, search=4, finetune=2, shrink=optimizer if shrinks else ())
        sizes = []
        for _ in range(phases.epochs):
            torch.manual_seed(100 + phases.epoch)
            x, y = batch()
            model.train()
            optimizer.zero_grad()
            # A task that pulls no mask back: what is off stays off.
            (F.cross_entropy(model(x.double()), y) + 1e3 * phases.get_regularization_loss()).backward()
            optimizer.step()
            phases.step()
            sizes.append(sum(p.numel() for p in model.net_parameters()))
        runs.append((model, model(x.double()), sizes))
    (masked, expected, before), (small, found, after) = runs
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert masked.arch_structure() == small.arch_structure()
    assert len(set(before)) == 1
    assert after == sorted(after, reverse=True)
    # In fine-tuning nothing is left that export would not take.
    assert after[-1] == sum(p.numel() for p in small.eval().arch_export().parameters()) < before[-1]
    assert [report["when"] for report in small.shrunk.history] == sorted({r["when"] for r in small.shrunk.history})
    assert small.shrunk.history[-1]["when"] == 4


def test_falling_limits_shrink_within_an_epoch_and_change_no_output() -> None:
    torch.manual_seed(0)
    model = PIT(convnet(8), SHAPE, regularizer=Budget(size=80, steps=40)).double()
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-2))
    phases = PhaseSchedule(model, search=1, shrink=optimizer)
    without = PhaseSchedule(model, search=1)
    x, y = batch(16)
    weights, left = [], []
    for step in range(40):
        model.train()
        optimizer.zero_grad()
        (F.cross_entropy(model(x.double()), y) + phases.get_regularization_loss()).backward()
        optimizer.step()
        expected = model.eval()(x.double())
        assert not without.after_step()
        left.append(phases.after_step())
        torch.testing.assert_close(model(x.double()), expected, rtol=1e-9, atol=1e-9)
        computed = sum(p.numel() for p in model.net_parameters())
        weights.append(computed)
        if step and not left[-1]:
            assert computed == weights[-2]
    assert phases.epoch == 0
    assert sum(left) > 1
    assert weights == sorted(weights, reverse=True)
    # Masks rest by then, take no gradients, and all that is off has left.
    assert not any(p.requires_grad for p in model.arch_parameters())
    assert weights[-1] == sum(p.numel() for p in model.eval().arch_export().parameters()) < weights[0]
    assert all(report["when"] == 0 for report in model.shrunk.history)
    assert len(model.shrunk.history) == sum(left)
    phases.step()
    assert not phases.after_step()


@pytest.mark.parametrize("within", [True, False])
def test_averages_are_made_anew_where_something_left(within: bool) -> None:
    model = PIT(convnet(8), SHAPE, regularizer=Budget(size=80, steps=40))
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-2))
    phases = PhaseSchedule(model, search=4, finetune=1, shrink=optimizer)
    averages = [AveragedModel(model)]
    x, y = batch(8)
    for _ in range(phases.epochs):
        for _ in range(10):
            optimizer.zero_grad()
            (F.cross_entropy(model(x), y) + phases.get_regularization_loss()).backward()
            optimizer.step()
            if within and phases.after_step():
                averages.append(AveragedModel(model))
            averages[-1].update_parameters(model)  # torch raises where shapes differ
        before = len(model.shrunk.history) if model.shrunk is not None else 0
        if phases.step():
            averages.append(AveragedModel(model))
        assert (len(model.shrunk.history) > before) == (averages[-1].n_averaged == 0)
    assert len(averages) > 2
    assert averages[-1].module.arch_structure() == model.arch_structure()


def test_masks_that_hide_nothing_and_rest_are_not_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = PIT(convnet(8), SHAPE, regularizer=Budget(size=80)).eval()
    x, _ = batch(4)

    def fail(*_: Any) -> None:
        raise AssertionError("multiplied")

    expected = model(x)
    model.freeze_arch()
    monkeypatch.setattr(model._prepared, "forward", fail)
    assert torch.equal(model(x), expected)
    for change in (lambda: model.alpha.data[0].fill_(0.0), model.unfreeze_arch):
        before = copy.deepcopy(model.state_dict())
        change()
        with pytest.raises(AssertionError, match="multiplied"):
            model(x)
        model.load_state_dict(before)


@pytest.mark.parametrize(
    ("budget", "search", "steps", "message"),
    [
        # 40 steps of 7 per epoch are 6 epochs.
        (Budget(size=60, steps=40), 5, 7, r"5 epochs of search of 7 steps are 35.*for 6 epochs, or wrap .*steps=35"),
        (Budget(size=60, steps=40), 6, 7, None),
        # A mask has 0.5 to go: 20 steps of 0.02 are 0.4, and 25 are needed.
        (
            Budget(size=60),
            4,
            5,
            r"20 steps of about 0\.02 move a mask by 0\.4 at most.*for 5 epochs or more, or .*=0\.1",
        ),
        (Budget(size=60), 5, 5, None),
    ],
)
def test_a_search_that_can_decide_nothing_is_refused(
    budget: Budget, search: int, steps: int, message: str | None
) -> None:
    model = PIT(convnet(), SHAPE, regularizer=budget)
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-2, arch_lr=0.02))
    if message is None:
        PhaseSchedule(model, search=search, shrink=optimizer, steps=steps)
        return
    with pytest.raises(ConfigError, match=message):
        PhaseSchedule(model, search=search, shrink=optimizer, steps=steps)
    # Other optimizers have steps of no known length.
    if budget.steps is None:
        PhaseSchedule(
            model, search=search, shrink=torch.optim.SGD(model.param_groups(lr=1e-2, arch_lr=0.02)), steps=steps
        )


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = convnet()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.net(x), "input": x}


def test_a_teacher_is_heard_after_the_warm_up() -> None:
    model, teacher = METHODS["pit"](), convnet().train()
    phases = PhaseSchedule(model, warmup=1, search=1, strength=1.0, teacher=teacher)
    x, _ = batch()
    outputs = model(x)
    assert float(phases.get_teacher_loss(outputs, x)) == 0
    phases.step()
    loss = phases.get_teacher_loss(outputs, x, temperature=2.0)
    p, q = (torch.softmax(logits / 2, 1) for logits in (teacher.eval()(x), outputs))
    expected = 4 * (p * (p.log() - q.log())).sum(1).mean()  # T^2 KL, mean over the batch
    torch.testing.assert_close(loss, expected)
    assert next(teacher.parameters()).grad is None
    with pytest.raises(ConfigError, match="there is no teacher"):
        PhaseSchedule(model, search=1, strength=1.0).get_teacher_loss(outputs, x)
    wider = nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, 5))
    for stranger, message in (
        (wider, r"outputs are \(2, 5\) where the model's are \(2, 3\)"),
        (nn.Linear(2, 2), "does not take"),
    ):
        with pytest.raises(ConfigError, match=message):
            PhaseSchedule(model, search=1, strength=1.0, teacher=stranger)
    pair = PIT(Pair(), SHAPE)
    with pytest.raises(ConfigError, match="teaches one tensor of logits, and PIT gives a dict"):
        PhaseSchedule(pair, search=1, strength=1.0, teacher=Pair())
    with pytest.raises(ConfigError, match="holds no parameter of this PIT"):
        PhaseSchedule(model, search=1, strength=1.0, shrink=torch.optim.SGD(teacher.parameters(), 0.1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"search": 0}, "search must be an int >= 1"),
        ({"search": 2.5}, "search must be an int >= 1"),
        ({"search": True}, "search must be an int >= 1"),
        ({"warmup": -1}, "warmup must be an int >= 0"),
        ({"finetune": "3"}, "finetune must be an int >= 0"),
        ({"freeze": {"mask": 2}}, "Did you mean 'masks'"),
        ({"freeze": {"masks": -1}}, "must be a finite number >= 0"),
        ({"strength": None}, "needs a strength"),
        ({"strength": -1.0}, "strength must be a number >= 0"),
        ({"strength": float("nan")}, "strength must be a number >= 0"),
        ({"strength": "0.1"}, "strength must be a number >= 0"),
        ({"strength": linear(1.0, -1.0, 4)}, "strength must be a number >= 0"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PhaseSchedule(METHODS["pit"](), **{"search": 2, "strength": 1.0, **arguments})


def test_wrong_models_and_states() -> None:
    with pytest.raises(ConfigError, match=r"leads a search model .* got Sequential\.$"):
        PhaseSchedule(nn.Sequential(), search=1, strength=1.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"got DataParallel\. Pass the model inside it"):
        PhaseSchedule(nn.DataParallel(METHODS["pit"]()), search=1, strength=1.0)  # type: ignore[arg-type]
    phases = PhaseSchedule(METHODS["pit"](), search=2, strength=1.0)
    for state in ({}, {"epoch": -1}, {"epoch": 1.5}, {"epoch": 1, "more": 2}, None):
        with pytest.raises(ConfigError):
            phases.load_state_dict(state)  # type: ignore[arg-type]
    assert phases.epoch == 0
    phases.load_state_dict({"epoch": 1})
    assert repr(phases) == "PhaseSchedule(warmup=0, search=2, finetune=0; epoch 1: search, strength 1)"
