"""`recalibrate`: statistics of the network that is there, found again after export; modes, momenta and bad input."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nasopt
from nasopt import PIT, SuperNet, with_candidates
from nasopt.errors import ConfigError, NoEffectWarning

SHAPE = (3, 8, 8)


def convnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(8, 6, 3, padding=1),
        nn.BatchNorm2d(6, momentum=None),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 2),
    )


def some(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [2 + 3 * torch.randn(16, *SHAPE, generator=generator) for _ in range(count)]


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if "running" in name}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.allclose(left[key], right[key], atol=1e-6) for key in left)


def test_means_over_the_batches() -> None:
    norm = nn.BatchNorm2d(3)
    nasopt.recalibrate(norm, some())
    assert torch.allclose(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in some()]).mean(0), atol=1e-6)
    assert torch.allclose(norm.running_var, torch.stack([x.var((0, 2, 3)) for x in some()]).mean(0), atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_everything_else_is_as_it_was(training: bool) -> None:
    model = convnet().train(training)
    model[4].eval()
    before = copy.deepcopy(model)
    nasopt.recalibrate(model, some())
    assert [module.training for module in model.modules()] == [module.training for module in before.modules()]
    assert (model[1].momentum, model[5].momentum) == (0.1, None)
    for name, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], value) == ("running" not in name and "num_batches" not in name), (
            name
        )
    first = statistics(model)
    nasopt.recalibrate(model, some())
    assert same(first, statistics(model)), "no dropout, and nothing of what was there before"


def test_the_search_model_gets_what_its_export_gets() -> None:
    model = PIT(convnet(), SHAPE)
    with torch.no_grad():
        model.alpha.copy_(torch.rand(model.alpha.shape))
    found = model.arch_export().eval()
    stale = found(some()[0])
    nasopt.recalibrate(model, some())
    nasopt.recalibrate(found, some())
    assert same(statistics(found), statistics(model.arch_export()))
    assert not torch.allclose(stale, found(some()[0]))
    assert torch.allclose(model.eval()(some()[0]), found(some()[0]), atol=1e-5)


def test_branches_that_do_not_run_keep_their_statistics() -> None:
    model = SuperNet(with_candidates(convnet(), SHAPE), SHAPE, hard_softmax=True, paths="sampled")
    before = statistics(model)
    nasopt.recalibrate(model, some())
    kept = [torch.equal(before[name], value) for name, value in statistics(model).items()]
    assert any(kept)
    assert not all(kept)
    assert all(bool(value.isfinite().all()) for value in statistics(model).values())


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.SyncBatchNorm(3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.norm(a + b)


@pytest.mark.parametrize("form", ["nested", "named", "loader"])
def test_forms_of_batches(form: str) -> None:
    x = some()
    if form == "loader":
        model: Any = nn.Sequential(nn.BatchNorm2d(3))
        nasopt.recalibrate(model, ((part, torch.zeros(16)) for part in x))
        found = model[0]
    else:
        model = TwoInputs()
        batches: list[Any] = [((part, part), "label") if form == "nested" else {"a": part, "b": part} for part in x]
        nasopt.recalibrate(model, batches)
        found = model.norm
        x = [2 * part for part in x]
    assert torch.allclose(found.running_mean, torch.stack([part.mean((0, 2, 3)) for part in x]).mean(0), atol=1e-5)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no batch"),
        (["x"], "holds a str"),
        ([[]], "holds a list"),
        ([torch.full((4, *SHAPE), float("nan"))], "statistics of 1 are not finite"),
        ([*some(), None], "holds a NoneType"),
    ],
)
def test_bad_batches_leave_everything_as_it_was(batches: list[Any], message: str) -> None:
    model = convnet().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        nasopt.recalibrate(model, batches)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert model[1].momentum == 0.1


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.GroupNorm(1, 3), nn.BatchNorm2d(3, track_running_stats=False)])
def test_without_norms_it_says_so(model: nn.Module) -> None:
    with pytest.warns(NoEffectWarning, match="changes nothing"):
        nasopt.recalibrate(model, some())


def test_an_export_may_carry_statistics_of_its_own() -> None:
    model = nasopt.PIT(convnet(), SHAPE)
    with torch.no_grad():
        model.alpha[:2] = 0
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    found, expected = model.arch_export(recalibrate=some()), model.arch_export()
    nasopt.recalibrate(expected, some())
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in found.state_dict().items())
    assert not torch.equal(found.state_dict()["1.running_mean"], model.arch_export().state_dict()["1.running_mean"])
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
