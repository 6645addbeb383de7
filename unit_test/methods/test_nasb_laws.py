"""What NASB adds to the laws of every search method (unit_test/test_laws.py): draws, presets, what is never kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import nasopt
from nasopt import NASB
from nasopt.cost import get_metric, network_cost
from nasopt.search.price import Architecture
from unit_test.methods.nasb_seeds import SEEDS, SHAPE, Residual

METRICS = ("size", "size_bits", "macs", "ops", "memory")
POOLS = ("zero", "max_pool_3x3", "identity")


def wrap(**settings: Any) -> NASB:
    make, cells = SEEDS["short"]
    return NASB(make(), SHAPE, cells=cells, **settings)


def test_v3_has_two_branches_per_cell() -> None:
    model = wrap(preset="V3", candidates=("zero", "identity"))
    assert {cell["branches"] for cell in model.cell_summary().values()} == {2}


@pytest.fixture(scope="module")
def whole() -> NASB:
    """With all candidates."""
    torch.manual_seed(0)
    return wrap()


@pytest.mark.parametrize("metric", METRICS)
def test_every_row_gets_a_gradient_from_a_metric(metric: str, whole: NASB) -> None:
    whole.zero_grad()
    whole.train().get_cost(metric).backward()
    gradient = whole.choice_logits.grad
    assert gradient is not None
    assert bool(torch.isfinite(gradient).all())
    # Poolings cost no products; every convolution does. A peak is held by one node.
    assert bool((gradient.reshape(-1, 10)[:, 4:] != 0).all()) or (metric == "memory" and bool((gradient != 0).any()))


def test_the_loss_reaches_alpha_through_the_two_drawn_operations() -> None:
    model = wrap(active="edges")
    model(torch.randn(4, *SHAPE)).square().sum().backward()
    assert model.choice_logits.grad is not None
    gradient = model.choice_logits.grad.reshape(-1, 10)
    assert bool(torch.isfinite(gradient).all())
    touched = (gradient != 0).sum(1)
    assert bool((touched == 2).all())
    torch.testing.assert_close(gradient.sum(1), torch.zeros(len(gradient)), atol=1e-5, rtol=0)


def test_operations_that_are_off_lose_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    model = wrap().double()
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
    model = wrap(candidates=("zero", "max_pool_3x3", "conv_3x3"))
    with torch.no_grad():
        model.choice_logits.normal_()
        p = model.choice_logits.reshape(-1, 3).double().softmax(1)
        one = torch.zeros_like(p)
        total, count = 0.0, 600
        price = model._prepared.decisions.price
        for row in torch.multinomial(p, count, replacement=True).t():
            one.zero_().scatter_(1, row.unsqueeze(1), 1.0)
            at = Architecture(torch.zeros(0, dtype=torch.float64), one.reshape(-1))
            total += float(price(get_metric("ops"), at))
    assert total / count == pytest.approx(float(model.get_cost("ops").detach()), rel=0.02)


@pytest.mark.parametrize("value", [-1e4, 0.0, 1e4])
def test_something_survives_whatever_the_parameters(value: float) -> None:
    model = wrap(candidates=POOLS)
    with torch.no_grad():
        model.choice_logits.fill_(value)
        model.choice_logits[::3] += 1e4  # zero wins everywhere, and is never kept
    model.train()(torch.randn(2, *SHAPE))
    kept = [k for cell in model.cell_summary().values() for k in cell["kept"]]
    assert len(kept) == 4
    assert all(k["operation"] != "zero" for k in kept)


def test_not_a_number_is_refused() -> None:
    model = wrap(candidates=POOLS)
    with torch.no_grad():
        model.choice_logits[0] = float("nan")
    with pytest.raises(nasopt.errors.ArchitectureError, match="choice_logits"):
        model.arch_export()


def test_light_residuals_connect_nodes_of_different_shapes() -> None:
    torch.manual_seed(0)
    model = NASB(Residual(), SHAPE, candidates=["zero", "light_skip", "conv_1x1"])
    choices = model.choice_summary()
    x = torch.randn(4, *SHAPE)
    model.train()(x).sum().backward()
    with torch.no_grad():
        logits = [float(kind == "from_0_light_skip") for row in choices.values() for kind in row["branches"]]
        model.choice_logits.copy_(torch.tensor(logits))
    found = model.arch_export().eval()
    assert [name for name, _ in found.named_modules() if name.endswith(".more")]  # of a LightResidual, looked into
    assert torch.allclose(found(x), model.eval()(x), atol=1e-5)
    assert model.get_cost("ops", discrete=True) == network_cost(found, "ops", SHAPE)
