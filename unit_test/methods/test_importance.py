"""A `Budget` with `steps`: masks are set by the rank of their gradients, under limits that fall; nothing else moves them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt import PIT, Budget, PhaseSchedule, PITSuperNet, Precision, SuperNet, restore, schedule
from nasopt.errors import ConfigError
from unit_test.methods.phase_toys import METHODS, SHAPE, alternatives

STEPS = 40


def seed(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


def data(step: int, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(size, *SHAPE, generator=generator)
    return x, x.mean((2, 3)).argmax(1)


def train(model: Any, optimizer: torch.optim.Optimizer, steps: range, scale: float = 1.0, parts: int = 1) -> list[int]:
    """Sizes after every step; the loss of a step may be scaled, and come in parts."""
    sizes = []
    model.train()
    for step in steps:
        optimizer.zero_grad()
        for x, y in zip(*(whole.chunk(parts) for whole in data(step))):
            loss = F.cross_entropy(model(x), y) + model.get_regularization_loss()
            (loss * scale / parts).backward()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad /= scale
        optimizer.step()
        sizes.append(model.get_cost("size", discrete=True))
    return sizes


def make(model: nn.Module | None = None, **options: Any) -> tuple[Any, torch.optim.Optimizer]:
    budget = options.pop("budget", None) or Budget(size=300, steps=STEPS)
    search = PIT(model or seed(), SHAPE, regularizer=budget, **options)
    return search, torch.optim.Adam(search.param_groups(lr=1e-2, arch_lr=1.0), betas=(0.9, 0.99))


def test_the_limit_falls_in_a_straight_line_and_is_kept_at_every_step() -> None:
    model, optimizer = make()
    start = model.get_cost("size", discrete=True)
    sizes = train(model, optimizer, range(STEPS))
    for step, size in enumerate(sizes, 1):
        # A tenth of 40 steps is 4, two fifths are 16.
        assert size <= start + (300 - start) * min(max(step - 4, 0) / 12, 1)
    assert sizes[:4] == [start] * 4
    assert 0.75 * 300 < sizes[-1] <= 300
    assert len(set(sizes[15:])) == 1  # then masks rest


def test_no_optimizer_moves_the_masks_and_units_keep_their_rank() -> None:
    model, optimizer = make()
    train(model, optimizer, range(STEPS))
    settled = copy.deepcopy(list(model.arch_parameters()))
    train(model, optimizer, range(STEPS, STEPS + 5))
    assert all(torch.equal(*pair) for pair in zip(settled, model.arch_parameters()))
    assert all(p.grad is None for p in model.arch_parameters())
    assert all(float(p.detach().min()) >= 0 for p in model.arch_parameters())


def test_a_unit_that_nothing_depends_on_goes_first() -> None:
    model, optimizer = make(budget=Budget(size=700, steps=STEPS))
    with torch.no_grad():
        for index in (0, 3):  # the first layer's channels of these numbers reach nobody
            model.net.get_submodule("3").weight[:, index] = 0
    first = model.alpha.numel() - 8 - 8
    for parameter in model.net.get_submodule("3").parameters():
        parameter.requires_grad_(False)
    assert model.check_gradients() == {"alpha": 16, "beta": 8}  # rings of two 3x3 kernels, along two dimensions
    train(model, optimizer, range(12))
    assert model.check_gradients() == {"alpha": 2, "beta": 0}
    assert first == 0
    order = model.alpha.detach()[:8].argsort()[:2].tolist()
    assert sorted(order) == [0, 3]


def test_scaled_losses_and_losses_in_parts_find_the_same() -> None:
    found = []
    for scale in (1.0, 1024.0):
        torch.manual_seed(0)
        model, optimizer = make(seed().double())
        model.double()
        for step in range(STEPS):
            x, y = data(step)
            optimizer.zero_grad()
            ((F.cross_entropy(model(x.double()), y) + model.get_regularization_loss()) * scale).backward()
            for parameter in model.net_parameters():
                parameter.grad /= scale
            optimizer.step()
        found.append(model.arch_structure())
    assert found[0] == found[1]
    model, optimizer = make(budget=Budget(size=300, steps=2 * STEPS))
    train(model, optimizer, range(STEPS), parts=2)
    assert int(model.importance.step) == model.importance.last == 32
    assert model.get_cost("size", discrete=True) <= 300


def test_gradients_that_are_not_finite_are_left_out() -> None:
    model, optimizer = make()
    train(model, optimizer, range(3))
    before = model.importance.alpha.clone()
    x, y = data(3)
    ((F.cross_entropy(model(x), y) + model.get_regularization_loss()) * float("inf")).backward()
    assert torch.equal(before, model.importance.alpha)
    assert int(model.importance.step) == 4


def test_a_checkpoint_in_mid_search_goes_on_as_if_nothing_had_been() -> None:
    through, optimizer = make()
    train(through, optimizer, range(STEPS))
    first, optimizer = make()
    train(first, optimizer, range(15))
    second, other = make()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(second, other, range(15, STEPS))
    for key, value in through.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
    twin = copy.deepcopy(first)
    train(twin, torch.optim.SGD(twin.parameters(), 1e-3), range(15, STEPS))
    assert twin.get_cost("size", discrete=True) <= 300
    structure = second.arch_structure()
    assert restore(seed(), structure).state_dict().keys() == second.arch_export().state_dict().keys()


@pytest.mark.parametrize(
    "limits",
    [{"macs": 9_000}, {"size": 400, "macs": 12_000}, {"memory": 400}, {"latency": ("cortex_m4", 0.3)}],
    ids=str,
)
def test_every_metric_and_several_at_once(limits: dict[str, Any]) -> None:
    model, optimizer = make(budget=Budget(steps=STEPS, **limits), channel_block=1 + ("macs" in limits))
    train(model, optimizer, range(STEPS))
    for metric, limit in model.budget.limits:
        assert model.get_cost(metric, discrete=True) <= limit, metric
    model.eval().arch_export()


def test_kernels_of_time_are_ranked_too() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv1d(2, 4, 9, padding=4), nn.ReLU(), nn.Conv1d(4, 4, 8), nn.ReLU()]
    model = PIT(
        nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 9, 2)), (2, 16), regularizer=Budget(size=150, steps=STEPS)
    )
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    for step in range(STEPS):
        x = torch.randn(8, 2, 16, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        # Only the newest two samples of every window matter.
        (F.cross_entropy(model(x), (x[:, 0, -1] > 0).long()) + model.get_regularization_loss()).backward()
        optimizer.step()
    assert model.get_cost("size", discrete=True) <= 150
    assert bool((model.beta > 0).all())
    assert bool((model.gamma > 0).all())
    model.eval().arch_export()


@pytest.mark.parametrize("front", [SuperNet, PITSuperNet])
@pytest.mark.parametrize("paths", ["all", "sampled"])
def test_branches_pay_for_the_limits_of_the_step(front: Any, paths: str) -> None:
    torch.manual_seed(0)
    model = front(
        alternatives(),
        SHAPE,
        regularizer=Budget(size=60, steps=STEPS),
        paths=paths,
        gumbel_softmax=True,
        hard_softmax=True,
    )
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-2, arch_lr=5e-2))
    train(model, optimizer, range(STEPS))
    assert int(model.importance.step) == model.importance.last == 16
    assert model.get_cost("size", discrete=True) <= 60
    model.eval().arch_export()


def test_phases_count_from_the_search_and_settle() -> None:
    model, optimizer = make()
    phases = PhaseSchedule(model, warmup=1, search=1, finetune=1)
    for _ in range(3):
        for step in range(5):
            optimizer.zero_grad()
            x, y = data(step)
            (F.cross_entropy(model(x), y) + phases.get_regularization_loss()).backward()
            optimizer.step()
        phases.step()
    assert (
        int(model.importance.step) == model.importance.last == 16
    )  # five were done when the search ended, then masks were set for good
    assert model.get_cost("size", discrete=True) <= 300


def test_a_strength_that_changes_weighs_no_steps() -> None:
    found = []
    for strength in (1.0, schedule.linear(0.1, 5.0, 2)):
        model, optimizer = make()
        phases = PhaseSchedule(model, search=2, strength=strength)
        for step in range(10):
            x, y = data(step)
            optimizer.zero_grad()
            (F.cross_entropy(model(x), y) + phases.get_regularization_loss()).backward()
            optimizer.step()
            if step == 4:
                phases.step()
        found.append(model.importance.alpha)
    assert torch.equal(*found)


@pytest.mark.parametrize("steps", [0, 39, 40.0, True, "all"])
def test_too_few_steps(steps: Any) -> None:
    with pytest.raises(ConfigError, match="steps must be an int >= 40"):
        Budget(size=100, steps=steps)


def test_all_methods_without_steps_are_as_they_were() -> None:
    assert all(getattr(make(), "importance", None) is None for make in METHODS.values())


def test_widths_make_up_for_half_of_what_a_budget_cuts() -> None:
    precision, torch_seed = Precision((2, 4, 8)), seed(16)
    whole = PIT(torch_seed, SHAPE, precision=precision, verify=False).get_cost("flash").item()
    wanted = 0.4 * whole
    model, _ = make(torch_seed, budget=Budget(flash=wanted, steps=STEPS), precision=precision)
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-2, arch_lr=1e-4))  # widths hardly move, so they cost the same
    last = model.importance.last
    for step in range(last - 1):
        train(model, optimizer, range(step, step + 1))
        ((_, limit),) = model.importance.limits(model.budget.limits)
        cost = model.get_cost("flash").item()
        assert cost <= 1.01 * max(limit, (limit * whole) ** 0.5)
    assert cost > 1.2 * limit
    train(model, optimizer, range(last - 1, STEPS))
    assert model.get_cost("flash").item() <= wanted
