"""A search of which nothing came says why: which parameters were stepped, and whether the regularizer was differentiated."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasopt import PIT
from nasopt.errors import NoEffectWarning


def seed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def search(
    parameters: Callable[[Any, nn.Module], Any],
    price: Callable[[Any], Tensor | float] = lambda model: 1e-2 * model.get_regularization_loss(),
    steps: int = 45,
    prepare: Callable[[Any], Any] = lambda model: None,
    **settings: Any,
) -> Any:
    """A short search; returns the search model."""
    torch.manual_seed(0)
    given = seed()
    model: Any = PIT(given, (4,), verify=False)
    prepare(model)
    optimizer = torch.optim.Adam(parameters(model, given), **{"lr": 1e-3, **settings})
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 4)).square().mean() + price(model)
        loss.backward()
        optimizer.step()
    return model


CAUSES: dict[str, tuple[Callable[[], Any], str]] = {
    "optimizer_of_the_seed": (
        lambda: search(lambda model, given: given.parameters()),
        "parameter of the search model was stepped",
    ),
    "optimizer_of_weights": (lambda: search(lambda model, given: list(model.net_parameters())), "were not stepped"),
    "regularizer_forgotten": (
        lambda: search(lambda model, given: model.parameters(), lambda model: 0.0),
        "never part of a loss",
    ),
    "regularizer_as_a_number": (
        lambda: search(lambda model, given: model.parameters(), lambda model: model.get_regularization_loss().item()),
        "never part of a loss",
    ),
    "frozen": (
        lambda: search(
            lambda model, given: model.parameters(), prepare=lambda model: model.alpha.requires_grad_(False)
        ),
        "are frozen",
    ),
    "too_few_steps": (lambda: search(lambda model, given: model.parameters()), "train longer, or raise the strength"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_an_export_that_is_the_seed_says_why(name: str) -> None:
    run, words = CAUSES[name]
    model = run()
    with pytest.warns(NoEffectWarning, match=f"the exported network is the seed. .*{words}"):
        model.arch_export()


def test_weight_decay_that_prunes_is_named() -> None:
    """Channels went, and no regularizer was in any loss."""
    model = search(lambda model, given: model.parameters(), lambda model: 0.0, 45, lr=3e-2, weight_decay=5.0)
    assert bool((model.alpha < 0.5).any())
    with pytest.warns(NoEffectWarning, match="weight decay did that, or the task"):
        model.arch_export()


def test_nothing_is_said_where_there_is_nothing_to_say() -> None:
    """Of a search that cut something, one that has hardly begun, and a copy, whose steps nobody knows."""
    every = lambda model, given: model.parameters()  # noqa: E731
    cut = search(every, lr=5e-2)
    assert bool((cut.alpha < 0.5).any())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in (cut, search(every, steps=5), copy.deepcopy(search(every))):
            model.arch_export()
