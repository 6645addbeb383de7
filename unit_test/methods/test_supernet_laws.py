"""The laws of search models, over all ways to search branches and all toys that have some."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
from collections.abc import Callable, Iterable

import pytest
import torch
from supernet_toys import SUPER_TOYS, SuperToy
from torch import Tensor, nn

import nasopt
from nasopt import PIT, PITSuperNet, SuperNet
from nasopt.cost import get_metric, network_cost
from nasopt.search.model import SearchModel

_SAMPLED = {"paths": "sampled", "hard_softmax": True, "gumbel_softmax": True}

SETTINGS: dict[str, Callable[..., SearchModel]] = {
    "soft": lambda seed, shape: SuperNet(seed, shape, regularizer="macs"),
    "gumbel": lambda seed, shape: SuperNet(seed, shape, gumbel_softmax=True, temperature=2.0),
    "hard": lambda seed, shape: SuperNet(seed, shape, gumbel_softmax=True, hard_softmax=True, regularizer="macs"),
    "sampled": lambda seed, shape: SuperNet(seed, shape, relative=True, **_SAMPLED),
    "two": lambda seed, shape: SuperNet(seed, shape, paths="two", regularizer={"size": 1.0, "macs": 0.1}),
    "no_masks": lambda seed, shape: PITSuperNet(seed, shape, autoconvert_layers=False),
    "shared": lambda seed, shape: PITSuperNet(seed, shape, branch_masks="shared", regularizer="macs"),
    "shared_sampled": lambda seed, shape: PITSuperNet(seed, shape, branch_masks="shared", channel_block=2, **_SAMPLED),
    "independent": lambda seed, shape: PITSuperNet(seed, shape, regularizer="macs"),
    "independent_sampled": lambda seed, shape: PITSuperNet(seed, shape, **_SAMPLED),
    "independent_two": lambda seed, shape: PITSuperNet(
        seed, shape, paths="two", gumbel_softmax=True, kernel_search=False
    ),
}


def cases(settings: Iterable[str]) -> pytest.MarkDecorator:
    """Every toy under each of these settings.

    All but one setting per toy, in turns, and the benchmark networks are left to `-m benchmark`.
    """
    names = list(settings)
    found = []
    for number, (name, toy) in enumerate(SUPER_TOYS.items()):
        for turn, setting in enumerate(names):
            marks = () if turn == number % len(names) and not toy.is_network else (pytest.mark.benchmark,)
            found.append(pytest.param(setting, toy, id=f"{setting}-{name}", marks=marks))
    return pytest.mark.parametrize(("setting", "toy"), found)


every_case = cases(SETTINGS)
# Laws that depend less on how branches are mixed.
some_cases = cases(["sampled", "two", "shared", "independent"])
# Wrapping takes a second; the laws take copies.
_WRAPPED: dict[tuple[str, SuperToy], tuple[nn.Module, SearchModel]] = {}


def wrapped(setting: str, toy: SuperToy) -> tuple[nn.Module, SearchModel]:
    """`(seed, search model)`."""
    if (setting, toy) not in _WRAPPED:
        seed = toy.seed()
        _WRAPPED[setting, toy] = (seed, SETTINGS[setting](seed, toy.shape))
    return copy.deepcopy(_WRAPPED[setting, toy])


every_small_toy = pytest.mark.parametrize(
    "toy", [pytest.param(toy, id=name) for name, toy in SUPER_TOYS.items() if not toy.is_network]
)


def scramble(model: SearchModel) -> None:
    """Random architecture: any branch, about a third of the channels gone."""
    with torch.no_grad():
        for name, parameter in model.named_arch_parameters():
            parameter.copy_(
                torch.randn_like(parameter) if name == "choice_logits" else torch.rand_like(parameter) + 0.2
            )


def train(model: SearchModel, x: Tensor, steps: int = 2) -> None:
    """A few steps of a search."""
    model.train()
    optimizer = torch.optim.SGD(model.param_groups(lr=1e-2, arch_lr=1e-1))
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x).sin().mean() + 1e-4 * model.get_regularization_loss()).backward()
        optimizer.step()


def difference(left: Tensor, right: Tensor) -> float:
    """Largest, relative to the largest value."""
    assert left.shape == right.shape
    return float((left - right).detach().abs().max()) / (float(left.detach().abs().max()) or 1.0)


@cases(["soft", "shared", "independent", "no_masks"])
def test_wrapping_changes_no_output(setting: str, toy: SuperToy) -> None:
    (seed, model), x = wrapped(setting, toy), toy.batch()
    for training in (False, True):
        seed.train(training), model.train(training)
        torch.manual_seed(1)
        wanted = seed(x)
        torch.manual_seed(1)
        assert difference(wanted, model(x)) < 1e-12


@some_cases
def test_evaluation_starts_with_the_first_branches(setting: str, toy: SuperToy) -> None:
    (seed, model), x = wrapped(setting, toy), toy.batch()
    assert difference(seed.eval()(x), model.eval()(x)) < 1e-12


@some_cases
def test_the_seed_and_the_generator_stay_as_they_are(setting: str, toy: SuperToy) -> None:
    seed = toy.seed()
    before, attributes = copy.deepcopy(seed.state_dict()), {n: set(vars(m)) for n, m in seed.named_modules()}
    generator = torch.get_rng_state()
    model = SETTINGS[setting](seed, toy.shape)
    assert torch.equal(generator, torch.get_rng_state())
    train(model, toy.batch())
    model.arch_export()
    after = seed.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert attributes == {n: set(vars(m)) for n, m in seed.named_modules()}
    assert all(m.training for m in seed.modules())


@every_case
def test_export_is_faithful_and_costs_are_true(setting: str, toy: SuperToy) -> None:
    (_, model), x = wrapped(setting, toy), toy.batch()
    for _ in range(3):
        train(model, x, 1)
        scramble(model)
        network = model.arch_export()
        model.eval(), network.eval()
        assert difference(model(x), network(x)) < 1e-9
        for metric in ("size", "macs", "memory"):
            exact = network_cost(network, metric, toy.shape)
            assert model.get_cost(metric, discrete=True) == exact
            assert float(model.get_cost(metric).detach()) == exact
            model.train()
            assert model.get_cost(metric, discrete=True) == exact
            model.eval()


@some_cases
def test_no_trace_of_the_search_is_left(setting: str, toy: SuperToy) -> None:
    _, model = wrapped(setting, toy)
    scramble(model)
    network = model.arch_export()
    assert not any(type(m).__module__.startswith("nasopt.graph") for m in network.modules())
    assert not any(isinstance(m, (nn.Identity, nasopt.SuperNetModule)) for m in network.modules())
    assert not any("branches" in name or "inputs" in name for name, _ in network.named_modules())


@some_cases
def test_a_result_can_be_restored_and_wrapped_again(setting: str, toy: SuperToy) -> None:
    (_, model), x = wrapped(setting, toy), toy.batch()
    scramble(model)
    network = model.arch_export().eval()
    structure = json.loads(json.dumps(model.arch_structure()))
    again = nasopt.restore(toy.seed(), structure).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x), network(x))
    second = PIT(network, toy.shape, regularizer="macs")
    assert second.get_cost("size", discrete=True) == model.get_cost("size", discrete=True)
    scramble(second)
    found = second.arch_export().eval()
    twice = nasopt.restore(nasopt.restore(toy.seed(), structure), second.arch_structure()).eval()
    twice.load_state_dict(found.state_dict())
    assert torch.equal(twice(x), found(x))


@some_cases
def test_reading_changes_nothing(setting: str, toy: SuperToy) -> None:
    _, model = wrapped(setting, toy)
    train(model, toy.batch())
    before, noise = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    for _ in range(2):
        loss = model.get_regularization_loss()
        model.get_size(), model.get_macs(), model.get_icv_loss(), model.get_cost("macs", discrete=True)
        (
            model.arch_summary(),
            model.arch_structure(),
            model.arch_export(),
            model.search_space(),
            str(model),
            str(model.explain()),
        )
        assert torch.equal(loss, model.get_regularization_loss())
    assert torch.equal(noise, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@some_cases
def test_parameters_are_divided_in_two(setting: str, toy: SuperToy) -> None:
    _, model = wrapped(setting, toy)
    arch, net = list(map(id, model.arch_parameters())), list(map(id, model.net_parameters()))
    assert not set(arch) & set(net)
    assert sorted(arch + net) == sorted(map(id, model.parameters()))
    assert {model.get_parameter(name) is not None for name, _ in model.named_arch_parameters()} == {True}


@some_cases
@pytest.mark.parametrize("source", ["task", "size", "macs"])
def test_every_architecture_parameter_gets_a_gradient(setting: str, toy: SuperToy, source: str) -> None:
    _, model = wrapped(setting, toy)
    model.train()
    got = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_arch_parameters()}
    # Sampled branches get theirs when they are drawn.
    for _ in range(40):
        model.zero_grad()
        loss = model(toy.batch()).square().mean()
        (loss if source == "task" else model.get_cost(get_metric(source))).backward()
        for name, parameter in model.named_arch_parameters():
            if parameter.grad is not None:
                assert bool(torch.isfinite(parameter.grad).all())
                got[name] |= parameter.grad != 0
    for name, found in got.items():
        if source == "task" or name in ("choice_logits", "alpha"):
            assert bool(found.all()), (name, found)


@some_cases
def test_round_trips(setting: str, toy: SuperToy) -> None:
    (seed, model), x = wrapped(setting, toy), toy.batch()
    train(model, x)
    scramble(model)
    _, fresh = wrapped(setting, toy)
    fresh.load_state_dict(model.state_dict())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), fresh):
        for training in (True, False):
            one, two = copy.deepcopy(model).train(training), copy.deepcopy(twin).train(training)
            torch.manual_seed(5)
            wanted = one(x)
            torch.manual_seed(5)
            assert torch.equal(wanted, two(x))
            assert torch.equal(one.get_macs(), two.get_macs())
    _, again = wrapped(setting, toy)
    again.load_state_dict(seed.state_dict())
    assert difference(seed.eval()(x), again.eval()(x)) < 1e-12
    assert model.float().eval()(x.float()).dtype == torch.float32
    assert model.double().arch_export()(x).dtype == torch.float64


@some_cases
def test_something_always_survives(setting: str, toy: SuperToy) -> None:
    _, model = wrapped(setting, toy)
    for value in (-3.0, 0.0, 0.5):
        with torch.no_grad():
            for parameter in model.arch_parameters():
                parameter.fill_(value)
        assert all(p.numel() for p in model.arch_export().parameters())


@every_small_toy
def test_the_smallest_network_is_the_smallest(toy: SuperToy) -> None:
    model = SuperNet(toy.seed(), toy.shape, regularizer="memory")
    names, sizes = model._prepared.decisions.choices.names, model._prepared.decisions.choices.sizes
    prices = {"macs": [], "memory": []}
    for falls in itertools.product(*(range(size) for size in sizes)):
        with torch.no_grad():
            model.choice_logits.copy_(
                model._prepared.decisions.choices.one_hot(dict(zip(names, falls)), model.choice_logits)
            )
        for metric, found in prices.items():
            found.append(model.get_cost(metric, discrete=True))
    smallest = {metric: cost["smallest"] for metric, cost in model.search_space()["cost"].items()}
    assert all(smallest[metric] == min(found) for metric, found in prices.items())
