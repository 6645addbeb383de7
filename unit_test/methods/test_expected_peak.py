"""Peak memory while branches are open: by hand, against the definition, and as a limit."""

from __future__ import annotations

import pytest
import torch
from supernet_toys import SUPER_TOYS
from torch import nn

import nasopt
from nasopt import Budget, PITSuperNet, SuperNet, SuperNetModule
from nasopt.cost import network_calls, network_cost

torch.set_num_threads(1)
SHAPE = (2, 4, 4)


def block(width: int) -> nn.Module:
    """Two convolutions, of which the inner one has `width` channels; nothing can be written over."""
    return nn.Sequential(nn.Conv2d(2, width, 3, padding=1), nn.Conv2d(width, 2, 3, padding=1))


class Chain(nn.Module):
    """Choices in a row between a wide and a narrow branch; 16 positions, 2 channels between the choices."""

    def __init__(self, choices: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 2, 1)
        self.row = nn.Sequential(*(SuperNetModule([block(8), block(3)]) for _ in range(choices)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.row(self.stem(x))


# Input and output of a layer at its widest: 16 * (2 + 8), 16 * (2 + 3); the stem: 16 * (2 + 2).
WIDE, NARROW, STEM = 160.0, 80.0, 64.0


@pytest.mark.parametrize("method", [SuperNet, PITSuperNet])
def test_one_choice_has_its_expected_value(method: type) -> None:
    model = method(Chain(1), SHAPE, regularizer="memory")
    with torch.no_grad():
        model.choice_logits.copy_(torch.tensor([0.75, 0.25]).log())
    cost = model.train().get_cost("memory")
    assert float(cost.detach()) == pytest.approx(0.75 * WIDE + 0.25 * NARROW)
    cost.backward()
    # d/dz_i sum_j p_j v_j = p_i (v_i - mean)
    expected = torch.tensor([0.75, 0.25]) * (torch.tensor([WIDE, NARROW]) - float(cost.detach()))
    assert torch.allclose(model.choice_logits.grad, expected.to(model.choice_logits))


def test_the_highest_choice_is_moved_even_where_several_hold_the_peak() -> None:
    model = SuperNet(Chain(3), SHAPE, regularizer="memory")
    optimizer = torch.optim.SGD(model.arch_parameters(), lr=0.05)
    model.train()
    assert float(model.get_cost("memory").detach()) == pytest.approx((WIDE + NARROW) / 2)
    for _ in range(60):
        optimizer.zero_grad()
        model.get_regularization_loss().backward()
        optimizer.step()
    assert model.get_cost("memory", discrete=True) == NARROW
    assert [choice["chosen"] for choice in model.choice_summary().values()] == [1, 1, 1]


class Around(nn.Module):
    """A step outside of the choice, 16 * (2 + 5), is higher than the narrow branch."""

    def __init__(self) -> None:
        super().__init__()
        self.choice = SuperNetModule([block(8), block(3), nn.Identity()])
        self.out = nn.Conv2d(2, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.choice(x))


def test_the_expected_value_is_never_below_what_always_runs() -> None:
    model = SuperNet(Around(), SHAPE).train()
    outside = 16.0 * (2 + 5)
    assert float(model.get_cost("memory").detach()) == pytest.approx((WIDE + outside + outside) / 3)


@pytest.mark.parametrize("name", ["Plain", "Nested", "Residual", "TwoInputs", "Temporal"])
def test_gradients_are_those_of_the_value(name: str) -> None:
    toy = SUPER_TOYS[name]
    model = PITSuperNet(toy.seed(), toy.shape, regularizer="memory").train()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.arch_parameters():
            parameter.copy_(torch.rand_like(parameter) + 0.6)
    model.get_cost("memory").backward()
    logits, step = model.choice_logits, 1e-5
    for i in range(len(logits)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                logits[i] += sign * step
                values.append(float(model.get_cost("memory")))
                logits[i] -= sign * step
        assert float(logits.grad[i]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-6)
    assert float(model.alpha.grad.abs().sum()) > 0


@pytest.mark.parametrize("method", [SuperNet, PITSuperNet])
def test_a_limit_is_kept(method: type) -> None:
    model = method(Chain(3), SHAPE, regularizer=Budget(memory=100, size=3_000))
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.train().param_groups(lr=1e-3, arch_lr=5e-2))
    for _ in range(60):
        optimizer.zero_grad()
        (model(torch.randn(2, *SHAPE)).square().mean() + model.get_regularization_loss()).backward()
        optimizer.step()
    assert bool(model.budget.reached)
    assert network_cost(model.arch_export(), "memory", SHAPE) <= 100


def test_settling_passes_over_a_plateau() -> None:
    """All choices hold the peak: no single exchange saves anything."""
    model = SuperNet(Chain(3), SHAPE, regularizer=Budget(memory=100))
    with torch.no_grad():
        model.choice_logits.copy_(torch.tensor([1.0, 0.0, 2.0, 0.0, 3.0, 0.0]))
    assert model.get_cost("memory", discrete=True) == WIDE
    model.settle_budget()
    assert model.get_cost("memory", discrete=True) == NARROW == network_cost(model.arch_export(), "memory", SHAPE)


def test_a_limit_below_the_smallest_network_is_refused() -> None:
    with pytest.raises(nasopt.errors.ConfigError, match=r"limit on memory is 79 B.*smallest.*costs 80 B"):
        SuperNet(Chain(3), SHAPE, regularizer=Budget(memory=79))


def test_a_limit_that_the_seed_keeps_still_holds_for_larger_branches() -> None:
    """No warning that it has no effect: the first branches are the narrow ones here."""
    seed = Chain(1)
    seed.row[0].branches[0], seed.row[0].branches[1] = seed.row[0].branches[1], seed.row[0].branches[0]
    model = SuperNet(seed, SHAPE, regularizer=Budget(memory=100))
    with torch.no_grad():
        model.choice_logits.copy_(torch.tensor([0.0, 1.0]))
    model.settle_budget()
    assert model.get_cost("memory", discrete=True) == NARROW


class Skip(nn.Module):
    """What a branch leaves behind waits while wide layers run: 4 + 20 + 4 channels with a convolution, 4 + 20 + 1 without."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 1)
        self.choice = SuperNetModule([nn.Conv2d(4, 4, 3, padding=1), nn.Identity()])
        self.wide = nn.Sequential(nn.Conv2d(4, 20, 1), nn.Conv2d(20, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.choice(x)
        return self.wide(x) + y


def test_a_branch_is_moved_by_what_it_leaves_behind() -> None:
    model = SuperNet(Skip(), SHAPE, regularizer="memory").train()
    cost = model.get_cost("memory")
    high, low = 16.0 * (4 + 20 + 4), 16.0 * (4 + 20 + 1)
    assert float(cost.detach()) == pytest.approx((high + low) / 2)
    cost.backward()
    assert torch.allclose(model.choice_logits.grad, torch.tensor([0.25, -0.25]) * (high - low))


def test_rounding_does_not_show_where_all_networks_cost_the_same() -> None:
    seed = nn.Sequential(nn.Conv2d(2, 16, 1), nn.Conv2d(16, 2, 1), SuperNetModule([block(2), block(1), nn.Identity()]))
    model = SuperNet(seed, SHAPE, regularizer="memory").train()
    torch.manual_seed(0)
    for _ in range(20):
        with torch.no_grad():
            model.choice_logits.normal_()
        assert float(model.get_cost("memory").detach()) == 16 * 18


class InPlace(nn.Module):
    """The result of a choice is written over, by a function or through a view, and read elsewhere or not."""

    def __init__(self, view: bool, again: bool, second: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 1)
        self.choice = SuperNetModule([Second() if second else First(), Sum()])
        self.view, self.again = view, again

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a, b = x * 2, self.stem(x)[:, :2]
        y = self.choice(a, b)
        y = y.view(x.shape[0], -1) if self.view else y
        z = torch.relu_(y)
        return (z, y.mul_(2), a + b) if self.again else (z,)


class First(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a


class Second(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return b


class Sum(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("view", [False, True])
def test_what_a_branch_passes_on_is_copied_before_it_is_written_over(view: bool, again: bool, second: bool) -> None:
    # Before it is wrapped, an Identity passes its input on and has it written over; the search model copies it.
    model = SuperNet(InPlace(view, again, second), SHAPE, verify=False).eval()
    for chosen in range(2):
        with torch.no_grad():
            model.choice_logits.copy_(torch.eye(2)[chosen])
        found = model.arch_export()
        assert model.get_cost("memory", discrete=True) == network_cost(found, "memory", SHAPE)


class Either(nn.Module):
    """One of two inputs goes through a layer."""

    def __init__(self, index: int, layer: nn.Module) -> None:
        super().__init__()
        self.index, self.layer = index, layer

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs[self.index])


class Together(nn.Module):
    """Only where no choice reads the wide layer it goes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 40, 1)
        self.one = SuperNetModule([Either(1, nn.Conv2d(40, 2, 1)), Either(0, block(8))])
        self.two = SuperNetModule([Either(1, nn.Conv2d(40, 2, 1)), Either(0, block(8))])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.wide(x)
        return self.two(self.one(x, y), y)


@pytest.mark.parametrize("method", [SuperNet, PITSuperNet])
def test_what_only_other_branches_read_costs_nothing(method: type) -> None:
    model = method(Together(), SHAPE, regularizer=Budget(memory=WIDE))  # 160: not refused
    for falls in ([0, 0], [0, 1], [1, 0], [1, 1]):
        with torch.no_grad():
            model.choice_logits.copy_(torch.eye(2)[falls].flatten())
            for parameter in model.arch_parameters():
                if parameter is not model.choice_logits:
                    parameter.copy_(torch.rand_like(parameter) + 0.2)
        found = nasopt.restore(Together(), model.arch_structure())
        calls = network_calls(found, SHAPE)
        for metric in ("memory", "size", "macs"):
            assert model.get_cost(metric, discrete=True) == calls.total(metric)
    assert not hasattr(found, "wide")


class Recurrent(nn.Module):
    """A layer of several prices, read by one branch alone."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.choice = SuperNetModule([Either(1, nn.Linear(4, 4)), Either(0, nn.Linear(4, 4))])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.choice(x, self.lstm(x)[0])


@pytest.mark.parametrize("chosen", [0, 1])
def test_all_prices_of_a_layer_go_with_it(chosen: int) -> None:
    model = SuperNet(Recurrent(), (5, 4)).eval()
    with torch.no_grad():
        model.choice_logits.copy_(torch.eye(2)[chosen])
    found = model.arch_export()
    for metric in ("size", "macs", "memory"):
        assert model.get_cost(metric, discrete=True) == network_cost(found, metric, (5, 4))


def test_many_choices_are_settled_in_the_order_of_what_they_save() -> None:
    """More networks than can all be priced; the fewest, cheapest exchanges."""
    model = SuperNet(Chain(9), SHAPE, regularizer=Budget(memory=100))
    assert model.search_space()["cost"]["memory"]["smallest"] == NARROW
    model.settle_budget()
    assert model.get_cost("memory", discrete=True) == NARROW


def test_compiled_as_one_graph() -> None:
    model = nasopt.PIT(nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), SHAPE, regularizer="memory")
    compiled = torch.compile(lambda: model.get_regularization_loss(), backend="eager", fullgraph=True)
    assert torch.equal(compiled(), model.get_regularization_loss())


def test_a_network_without_steps_holds_its_input() -> None:
    assert network_cost(nn.Identity(), "memory", SHAPE) == 32
    model = SuperNet(nn.Sequential(SuperNetModule([nn.Conv2d(2, 2, 1), nn.Identity()])), SHAPE)
    assert model.train().get_cost("memory").item() == (64 + 32) / 2
