"""The laws of every search method, for NASB: every preset on every seed."""

from __future__ import annotations

import copy
import io
import json
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nasopt
from nasopt import NASB
from nasopt.cost import get_metric, network_calls
from nasopt.search.price import Architecture
from unit_test.methods.nasb_seeds import SEEDS, SHAPE

METRICS = ("size", "size_bits", "macs", "ops", "memory")
MIXED = ("zero", "avg_pool_3x3", "identity", "conv_3x3", "dilated_conv_5x5")
SETTINGS: dict[str, dict[str, Any]] = {
    "NASB": {},
    "V1": {"preset": "V1", "candidates": MIXED},
    "V4": {"preset": "V4"},
    "V5": {"preset": "V5"},
    "two branches, regrouped": {"branches": 2, "nodes": 4, "keep": 2, "candidates": MIXED},
    "pools": {"candidates": ("zero", "max_pool_3x3", "identity")},
}
CASES = [pytest.param(s, k, id=f"{s}-{k}") for s in SEEDS for k in SETTINGS if (s == "residual") != (k == "V5")]


def wrap(seed_name: str, setting: str) -> tuple[nn.Module, NASB]:
    make, cells = SEEDS[seed_name]
    seed = make()
    return seed, NASB(seed, SHAPE, cells=cells, **SETTINGS[setting])


def shake(model: NASB) -> Tensor:
    """Random architecture and a few training steps; returns inputs."""
    with torch.no_grad():
        model.choice_logits.normal_()
    x = torch.randn(4, *SHAPE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return x


def counted(network: nn.Module) -> dict[str, float]:
    calls = network_calls(network, SHAPE)
    return {metric: calls.total(metric) for metric in METRICS}


@pytest.mark.parametrize(("seed_name", "setting"), CASES)
def test_export_is_faithful_its_cost_is_true_and_it_goes_round(seed_name: str, setting: str) -> None:
    seed, model = wrap(seed_name, setting)
    x = shake(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = model.arch_export()
    model.eval()
    network.eval()
    with torch.no_grad():
        wanted = model(x)
        assert torch.equal(network(x), wanted)
        assert torch.equal(pickle.loads(pickle.dumps(network))(x), wanted)
        restored = nasopt.restore(seed, json.loads(json.dumps(model.arch_structure())))
        restored.load_state_dict(network.state_dict())
        assert torch.equal(restored.eval()(x), wanted)
    assert {metric: model.get_cost(metric, discrete=True) for metric in METRICS} == counted(network)
    model.arch_summary()
    repr(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_seed_and_the_random_state_are_untouched() -> None:
    make, cells = SEEDS["residual"]
    seed = make().eval()
    state, modes = copy.deepcopy(seed.state_dict()), [m.training for m in seed.modules()]
    model = NASB(seed, SHAPE, cells=cells)
    assert not model.training
    model.train()
    shake(model)
    assert all(torch.equal(state[name], tensor) for name, tensor in seed.state_dict().items())
    assert modes == [m.training for m in seed.modules()]
    random = torch.get_rng_state()
    model.eval()(torch.zeros(1, *SHAPE))
    model.arch_export()
    model.get_cost("ops", discrete=True)
    assert torch.equal(random, torch.get_rng_state())


def test_partition() -> None:
    make, cells = SEEDS["residual"]
    model = NASB(make(), SHAPE, cells=cells, preset="V3", candidates=("zero", "identity"))
    assert {cell["branches"] for cell in model.cell_summary().values()} == {2}
    arch, net = dict(model.named_arch_parameters()), dict(model.named_net_parameters())
    assert list(arch) == ["choice_logits"]
    assert not set(arch) & set(net)
    assert set(arch) | set(net) == set(dict(model.named_parameters()))


@pytest.mark.parametrize("metric", METRICS)
def test_every_row_gets_a_gradient_from_a_metric(metric: str) -> None:
    make, cells = SEEDS["residual"]
    model = NASB(make(), SHAPE, cells=cells, regularizer=metric)
    model.get_regularization_loss().backward()
    gradient = model.choice_logits.grad
    assert gradient is not None
    assert bool(torch.isfinite(gradient).all())
    # Poolings cost no products; every convolution does. A peak is held by one node.
    assert bool((gradient.reshape(-1, 10)[:, 4:] != 0).all()) or (metric == "memory" and bool((gradient != 0).any()))


def test_the_loss_reaches_alpha_through_the_two_drawn_operations() -> None:
    make, cells = SEEDS["residual"]
    model = NASB(make(), SHAPE, cells=cells, active="edges")
    model(torch.randn(4, *SHAPE)).square().sum().backward()
    assert model.choice_logits.grad is not None
    gradient = model.choice_logits.grad.reshape(-1, 10)
    assert bool(torch.isfinite(gradient).all())
    touched = (gradient != 0).sum(1)
    assert bool((touched == 2).all())
    torch.testing.assert_close(gradient.sum(1), torch.zeros(len(gradient)), atol=1e-5, rtol=0)


def test_operations_that_are_off_lose_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    make, cells = SEEDS["residual"]
    model = NASB(make(), SHAPE, cells=cells).double()
    x = torch.randn(4, *SHAPE, dtype=torch.float64)

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        torch.manual_seed(1)
        model(x).square().sum().backward()
        return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}

    short = gradients()
    without_gradient = sum(p.grad is None for p in model.parameters())
    choices = model._prepared.decisions.choices
    plain = choices.active
    monkeypatch.setattr(
        choices, "active", lambda *args: [[one._replace(is_off=False) for one in cell] for cell in plain(*args)]
    )
    whole = gradients()
    assert sum(p.grad is None for p in model.parameters()) < without_gradient
    assert bool((short["choice_logits"] != 0).any())
    for name, gradient in short.items():
        torch.testing.assert_close(gradient, whole[name])


def test_expected_cost_is_the_mean_over_draws() -> None:
    make, cells = SEEDS["residual"]
    model = NASB(make(), SHAPE, cells=cells, candidates=("zero", "max_pool_3x3", "conv_3x3"))
    with torch.no_grad():
        model.choice_logits.normal_()
        p = model.choice_logits.reshape(-1, 3).double().softmax(1)
        one = torch.zeros_like(p)
        total, count = 0.0, 1000
        price = model._prepared.decisions.price
        for row in torch.multinomial(p, count, replacement=True).t():
            one.zero_().scatter_(1, row.unsqueeze(1), 1.0)
            at = Architecture(torch.zeros(0, dtype=torch.float64), one.reshape(-1))
            total += float(price(get_metric("ops"), at))
    assert total / count == pytest.approx(float(model.get_cost("ops").detach()), rel=0.02)


def test_round_trips_of_the_search_model() -> None:
    seed, model = wrap("residual", "two branches, regrouped")
    x = shake(model)
    model.eval()
    with torch.no_grad():
        wanted = model(x)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(x), wanted)
            assert twin.get_cost("ops", discrete=True) == model.get_cost("ops", discrete=True)
        buffer = io.BytesIO()
        torch.save(model.state_dict(), buffer)
        buffer.seek(0)
        other = NASB(seed, SHAPE, cells=SEEDS["residual"][1], **SETTINGS["two branches, regrouped"]).eval()
        other.load_state_dict(torch.load(buffer))
        assert torch.equal(other(x), wanted)
        double = copy.deepcopy(model).double()
        torch.testing.assert_close(double(x.double()).float(), wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("seed_name", SEEDS)
def test_a_seeds_weights_load(seed_name: str) -> None:
    _, model = wrap(seed_name, "pools")
    other = SEEDS[seed_name][0]()
    model.load_state_dict(other.state_dict())
    fresh = NASB(other, SHAPE, cells=SEEDS[seed_name][1], **SETTINGS["pools"])
    names = [n for n in model.state_dict() if ".into." not in n and n != "choice_logits"]
    same = {n: torch.equal(model.state_dict()[n], fresh.state_dict()[n]) for n in names}
    # Norms that the seed lacks are new in both.
    assert all(same.values()), [n for n, equal in same.items() if not equal]


@pytest.mark.parametrize("value", [-1e4, 0.0, 1e4])
def test_something_survives_whatever_the_parameters(value: float) -> None:
    _, model = wrap("residual", "pools")
    with torch.no_grad():
        model.choice_logits.fill_(value)
        model.choice_logits[::3] += 1e4  # zero wins everywhere, and is never kept
    model.train()(torch.randn(2, *SHAPE))
    kept = [k for cell in model.cell_summary().values() for k in cell["kept"]]
    assert len(kept) == 8
    assert all(k["operation"] != "zero" for k in kept)


def test_not_a_number_is_refused() -> None:
    _, model = wrap("residual", "pools")
    with torch.no_grad():
        model.choice_logits[0] = float("nan")
    with pytest.raises(nasopt.errors.ArchitectureError, match="choice_logits"):
        model.arch_export()
