"""Costs by width on targets: what runs, what it costs, and what the search over widths sees of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from toys import TOYS

from nasopt import PIT, Budget, MixedPrecision, Precision
from nasopt.cost import cost_report, energy_metric, get_target, latency_metric, network_cost
from nasopt.errors import ConfigError

SHAPE = (16, 6, 6)
X = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))


def seed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 4, 1),
    )


def searched(front: Any = MixedPrecision, regularizer: Any = "size_bits", **settings: Any) -> Any:
    torch.manual_seed(0)
    model = front(seed(), SHAPE, precision=Precision(**{"first_last": None, **settings}), regularizer=regularizer)
    model.calibrate([X])
    return model


# Weights that a search may give 2, 4 or 8 bits, activations of 8 bits (4 and 8 where the target runs both).
@pytest.mark.parametrize(("target", "activations"), [("gap9_ne16", 8), ("mpic", (4, 8))])
@pytest.mark.parametrize("make", [latency_metric, energy_metric])
def test_the_decided_cost_is_that_of_the_export(target: str, activations: Any, make: Any) -> None:
    metric = make(target)
    model = searched(PIT, metric, weights=(2, 4, 8), activations=activations)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        with torch.no_grad():
            for parameter in model.arch_parameters():
                parameter.copy_(torch.rand(parameter.shape, generator=generator) * 1.2)
        wanted = network_cost(model.arch_export(), metric, SHAPE)
        assert model.get_cost(metric, discrete=True) == pytest.approx(wanted, rel=1e-12)


def test_the_expected_cost_is_the_mean_over_widths_and_its_slope_their_difference() -> None:
    model = searched(regularizer="latency:mpic", weights={"0": (2, 8), "*": 8}, activations={"input": (4, 8), "*": 8})
    pixels, macs = 36, 16 * 32 * 9
    at = {(w, a): -(-10 * pixels * macs // rate) for w, a, rate in ((2, 4, 39), (2, 8, 25), (8, 4, 21), (8, 8, 21))}
    rest = model.get_cost("latency:mpic", discrete=True) - at[2, 4]  # of equal logits the narrower width
    model.train()
    model(X)
    cost = model.get_cost("latency:mpic")
    assert cost.item() == pytest.approx(rest + sum(at.values()) / 4)
    (slope,) = torch.autograd.grad(cost, model.choice_logits)
    # d p / d logit is 1/4 for the width itself, -1/4 for the other one. The choice of the input's width comes first.
    of_input = (at[2, 8] + at[8, 8] - at[2, 4] - at[8, 4]) / 2
    of_weight = (at[8, 4] + at[8, 8] - at[2, 4] - at[2, 8]) / 2
    assert slope.tolist() == pytest.approx([-of_input / 4, of_input / 4, -of_weight / 4, of_weight / 4])


def test_an_int8_network_costs_what_it_cost_in_floats() -> None:
    found = searched(weights=8, activations=8).arch_export()
    for metric in ("latency:gap9_ne16", "latency:mpic", "latency:cortex_m4", "energy:gap9_ne16"):
        assert network_cost(found, metric, SHAPE) == network_cost(seed(), metric, SHAPE)


@pytest.mark.parametrize(
    ("metric", "precision", "message"),
    [
        (
            "latency:gap8",
            {"weights": (2, 8)},
            r"layer '0': gap8 runs weights of 8 bits, not 2, so .* dataclasses.replace",
        ),
        ("latency_ms:mpic", {"weights": (3, 8)}, r"mpic runs weights of 2, 4, 8 bits, not 3"),
        ("energy:gap9_ne16", {"weights": 4, "activations": 4}, r"gap9_ne16 runs activations of 8 bits, not 4"),
        (
            "latency:cortex_m4",
            {"weights": 4, "inputs": 4},
            r"weights of 8 bits, not 4 and activations of 8 bits, not 4",
        ),
        ("latency:gap9_ne16", {"weights": 8, "activations": 16}, r"activations of 8 bits, not 16"),
        ("flash:max78000", {"weights": 3}, r"max78000 runs weights of 1, 2, 4, 8 bits, not 3"),
    ],
)
def test_widths_that_do_not_run(metric: str, precision: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"weights": 8, "activations": 8, "first_last": None, **precision}
    for regularizer in (metric, Budget({metric: 1e9})):
        with pytest.raises(ConfigError, match=message):
            MixedPrecision(seed(), SHAPE, precision=Precision(**settings), regularizer=regularizer)
    model = searched(**settings)
    with pytest.raises(ConfigError, match=message):
        model.get_cost(metric)
    with torch.no_grad():
        model.choice_logits[::2] = 1.0  # the narrow ones
    with pytest.raises(ConfigError, match=message):
        network_cost(model.arch_export(), metric, SHAPE)


def test_a_target_of_ones_own_may_run_more() -> None:
    target = replace(get_target("gap8"), name="gap8_nibbles", weight_bits=(4, 8))
    found = searched(weights=4, activations=8).arch_export()
    assert network_cost(found, target, SHAPE) == network_cost(seed(), "latency:gap8", SHAPE)


def test_reports_say_what_does_not_run() -> None:
    text = str(cost_report(searched(weights=4).arch_export(), SHAPE, targets=["gap8", "gap9_ne16"]))
    assert "gap8 runs weights of 8 bits, not 4" in text
    assert "gap9_ne16 runs" not in text


def test_kernel_memory_of_the_max78000_is_that_of_packed_weights() -> None:
    model = searched(regularizer=Budget(flash=("max78000", 3_600)), weights=(1, 2, 4, 8))
    weights = {"0": 16 * 9 * 32, "3": 32 * 9 * 16, "5": 64}
    model.settle_budget()
    found = model.arch_export()
    bits = {name: found.get_submodule(name).bits for name in weights}
    cost = model.get_cost("flash:max78000", discrete=True)
    assert cost == sum(weights[name] * bits[name] for name in weights) / 8
    assert 3_420 < cost <= 3_600  # 95 %


def test_budgets_on_a_target_that_runs_the_widths() -> None:
    model = searched(weights=(2, 4, 8))
    with torch.no_grad():
        model.choice_logits.view(-1, 3)[:, 2] = 1.0
    wide = model.get_cost("latency_ms:gap9_ne16", discrete=True)
    limit = 0.85 * wide
    model = searched(regularizer=Budget(latency=("gap9_ne16", limit)), weights=(2, 4, 8))
    model.settle_budget()
    assert 0.8 * limit < model.get_cost("latency_ms:gap9_ne16", discrete=True) <= limit


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_the_bias_beside_a_tied_weight_has_32_bits(granularity):
    """One weight of 4 x 6 in 8 bits for two layers, their biases of 4, and a head of 3 x 4 with 3."""
    toy = TOYS["tied_weights"]
    precision = Precision((2, 8) if granularity == "channel" else 8, 8, first_last=None, granularity=granularity)
    model = PIT(toy.seed(torch.float32), input_example=toy.batch(2, torch.float32), precision=precision)
    if granularity == "channel":
        with torch.no_grad():
            model.choice_logits.copy_(torch.tensor([0.0, 1.0]).repeat(model.choice_logits.numel() // 2))
    assert model.get_cost("size_bits", discrete=True) == (24 + 12) * 8 + (4 + 4 + 3) * 32
