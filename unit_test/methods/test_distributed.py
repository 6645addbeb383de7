"""Several processes search as one: the same parameters, paths and networks everywhere, and as one process finds them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from nasb_seeds import Residual
from supernet_toys import Plain as PlainChoices
from supernet_toys import unit
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from worlds import World

from nasopt import NASB, PIT, Budget, PITSuperNet, Precision, SuperNet, SuperNetModule
from nasopt.distributed import SynchronisedNorms, check_same
from nasopt.errors import ConfigError
from nasopt.methods.nasb import AlternatingSearch

SHAPE = (3, 8, 8)
STEPS = 20
BATCH = 8


def without_norms() -> nn.Module:
    """No norm at all."""
    body = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(6, 3))


def with_norms() -> nn.Module:
    """Norms in batch mode."""
    return nn.Sequential(unit(3, 6, 3), unit(6, 6, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


def choices() -> nn.Module:
    """A choice between three, norms of groups."""
    branches = [nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Identity()]
    stem = [nn.Conv2d(3, 4, 3, 2), nn.GroupNorm(2, 4), nn.ReLU()]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    return nn.Sequential(*stem, SuperNetModule(branches), nn.ReLU(), SuperNetModule(branches_of_two()), *end)


def branches_of_two() -> list[nn.Module]:
    return [nn.Conv2d(4, 4, 3, padding=1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))]


def nasb(cell: str, **options: Any) -> NASB:
    """In double precision and without max pooling: signs, and ties of binary values, turn rounding into other gradients."""
    candidates = ["zero", "identity", "avg_pool_3x3", "conv_1x1", "conv_3x3"]
    return NASB(Residual().double(), SHAPE, cells=[cell], candidates=candidates, relative=True, **options)


WIDTHS = Precision(weights=(2, 4, 8), activations=(4, 8), first_last=None)
CASES: dict[str, Callable[[], Any]] = {
    "pit_norms": lambda: PIT(with_norms(), SHAPE, relative=True),
    "pit_budget": lambda: PIT(without_norms(), SHAPE, regularizer=Budget(size=300, macs=40_000)),
    "pit_importance": lambda: PIT(without_norms(), SHAPE, regularizer=Budget(size=300, macs=40_000, steps=40)),
    "supernet_gumbel": lambda: SuperNet(choices(), SHAPE, relative=True, gumbel_softmax=True),
    "supernet_sampled": lambda: SuperNet(choices(), SHAPE, relative=True, hard_softmax=True, paths="sampled"),
    "supernet_two": lambda: SuperNet(choices(), SHAPE, relative=True, gumbel_softmax=True, paths="two"),
    "pit_supernet": lambda: PITSuperNet(PlainChoices(), SHAPE, relative=True, paths="two"),
    "pit_widths": lambda: PIT(with_norms().double(), SHAPE, relative=True, regularizer="flash", precision=WIDTHS),
    "nasb_alternating": lambda: nasb("stage1.0", keep=2),
}


def batch(step: int, rank: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """This process's share of the batch of a step."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(BATCH, *SHAPE, generator=generator)
    return x[rank::count], x.mean((2, 3))[rank::count, :3].mul(5)


def loss_of(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(output[:, :3], target)


def drawn(model: Any) -> Any:
    """What the last step has drawn."""
    draw = getattr(model, "_draw", None)
    return None if draw is None else draw.noise.tolist()


def search(name: str, rank: int = 0, count: int = 1, momentum: float = 0.9) -> dict[str, Any]:
    """Twenty steps of a search; generators differ from process to process."""
    torch.manual_seed(0)
    model = CASES[name]()
    forward = DistributedDataParallel(model) if count > 1 else model
    torch.manual_seed(10 + rank)
    optimizer = torch.optim.SGD(model.param_groups(lr=0.02, arch_lr=0.1, weight_decay=1e-3), momentum=momentum)
    alternating = AlternatingSearch(forward, loss_of, strength=0.1, lr=0.02) if "alternating" in name else None
    dtype = next(model.net_parameters()).dtype
    paths = []
    with SynchronisedNorms() if count > 1 else contextlib.nullcontext():
        for step in range(STEPS):
            if hasattr(model, "set_epoch"):
                model.set_epoch(step / 10)
            if model.precision is not None:
                model.quantise(step >= 5)  # after a warm-up in floats
            x, y = (t.to(dtype) for t in batch(step, rank, count))
            if alternating is not None:
                (alternating.weight_step if step % 2 else alternating.arch_step)((x, y))
                continue
            loss = loss_of(forward(x), y) + 0.5 * model.get_regularization_loss()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            paths.append(drawn(model))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    network = model.arch_export(verify=False)
    return {
        "arch": {name: p.detach().clone() for name, p in model.named_arch_parameters()},
        "gradients": {name for name, p in model.named_parameters() if p.grad is not None},
        "paths": paths,
        "state": state,
        "structure": model.arch_structure(),
        "network": network.state_dict(),
    }


def search_all(rank: int, count: int, names: list[str]) -> dict[str, Any]:
    return {name: search(name, rank, count) for name in names}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Two processes, started once."""
    with World(2) as world:
        yield world


@pytest.fixture(scope="module")
def found(world: World) -> list[dict[str, Any]]:
    return world.run(search_all, list(CASES))


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("name", CASES)
def test_all_processes_hold_and_export_the_same(name: str, found: list[dict[str, Any]]) -> None:
    check_alike(*(results[name] for results in found))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:the search has not come inside its budget")
def test_two_processes_search_as_one(name: str, found: list[dict[str, Any]]) -> None:
    check_as_one(search(name), found[0][name])


def check_alike(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert same(first["state"], second["state"])
    assert first["paths"] == second["paths"]
    assert first["structure"] == second["structure"]
    assert same(first["network"], second["network"])


def check_as_one(alone: dict[str, Any], together: dict[str, Any]) -> None:
    moved = 0.0
    for key, value in alone["arch"].items():
        torch.testing.assert_close(together["arch"][key], value, rtol=0, atol=1e-5)
        moved = max(moved, float((value - value.flatten()[0]).abs().max()))
    assert moved > 1e-3, "the search has not begun"
    assert together["gradients"] == alone["gradients"], "what was not drawn has no gradient, instead of zeros"
    assert together["structure"] == alone["structure"]
    for key, value in alone["network"].items():
        torch.testing.assert_close(together["network"][key], value, rtol=1e-4, atol=1e-4)


def sampled() -> SuperNet:
    torch.manual_seed(0)
    return SuperNet(choices(), SHAPE, relative=True, hard_softmax=True, paths="sampled")


def train(forward: nn.Module, model: Any, rank: int, count: int, steps: range = range(3)) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in steps:
        x, y = batch(step, rank, count)
        optimizer.zero_grad()
        (loss_of(forward(x), y) + 0.1 * model.get_regularization_loss()).backward()
        optimizer.step()


def options_of_ddp(rank: int, count: int) -> dict[str, Any]:
    """Weights after a few steps, by what DDP was told."""
    options: dict[str, dict[str, Any]] = {
        "none": {},
        "search for unused": {"find_unused_parameters": True},
        "views": {"gradient_as_bucket_view": True},
    }
    found: dict[str, Any] = {}
    for name, given in options.items():
        model = sampled()
        torch.manual_seed(rank)
        train(DistributedDataParallel(model, **given), model, rank, count)
        found[name] = model.state_dict()
    model = sampled()
    forward = DistributedDataParallel(model)
    torch.manual_seed(rank)
    for phase in (model.freeze_arch, model.unfreeze_arch, model.freeze_net, model.unfreeze_net):
        phase()
        train(forward, model, rank, count)
    found["phases"] = model.state_dict()
    with forward.no_sync():  # gradients of two steps are added, those of the first stay where they are
        loss_of(forward(batch(0, rank, count)[0]), batch(0, rank, count)[1]).backward()
    loss_of(forward(batch(1, rank, count)[0]), batch(1, rank, count)[1]).backward()
    found["two steps"] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    copied = copy.deepcopy(model).eval()
    found["copy"] = {"output": copied(batch(0, 0, 1)[0])}
    return found


def test_options_and_phases(world: World) -> None:
    first, second = world.run(options_of_ddp)
    for name in first:
        assert same(first[name], second[name]), name
    for name in ("search for unused", "views"):
        assert same(first[name], first["none"]), name
    assert not same(first["phases"], first["none"])


def other_models(rank: int, count: int) -> dict[str, str]:
    """What the processes are told about models that are not the same."""
    said: dict[str, str] = {}

    def tell(name: str, call: Callable[[], Any]) -> None:
        try:
            call()
            said[name] = ""
        except ConfigError as error:
            said[name] = str(error)

    def one_of(left: nn.Module, right: nn.Module) -> nn.Module:
        return left if rank == 0 else right

    def pit(activation: nn.Module, **options: Any) -> PIT:
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), activation, nn.Flatten(), nn.Linear(144, 3)]
        return PIT(nn.Sequential(*layers), SHAPE, **options)

    x = batch(0, rank, count)[0]
    alike = pit(nn.ReLU())
    tell("alike", lambda: check_same(alike))
    forward = DistributedDataParallel(alike)
    tell("alike in DDP", lambda: (check_same(forward), forward(x)))
    tell("layer", lambda: check_same(pit(one_of(nn.ReLU(), nn.Tanh()))))
    tell("layer in DDP", lambda: DistributedDataParallel(pit(one_of(nn.ReLU(), nn.Tanh())))(x))
    tell("setting", lambda: DistributedDataParallel(pit(nn.ReLU(), regularizer=["size", "macs"][rank]))(x))
    with torch.no_grad():
        alike.net.get_parameter("0.weight")[0, 0, 0, 0] += rank
    tell("value", lambda: check_same(alike))
    frozen = pit(nn.ReLU())
    frozen.freeze_arch()
    forward = DistributedDataParallel(frozen)
    tell("frozen", lambda: forward(x))
    frozen.unfreeze_arch()
    tell("unfrozen", lambda: forward(x))
    tell("static", lambda: DistributedDataParallel(pit(nn.ReLU()), static_graph=True)(x))
    return said


def test_different_models_are_told_apart(world: World) -> None:
    first, second = world.run(other_models)
    assert first == second, "every process is told"
    assert not first["alike"] + first["alike in DDP"] + first["frozen"]
    where = "rank 1 not that of rank 0"
    for name in ("layer", "layer in DDP"):
        assert f"{where}. layer 'net.2': ReLU() in rank 0, Tanh() in rank 1" in first[name]
        assert "same torch.manual_seed" in first[name]
    assert "the setting regularizer" in first["setting"]
    assert "size" in first["setting"]
    assert f"{where}. the values of 'net.0.weight'" in first["value"]
    assert "'alpha' takes gradients, but was frozen when DistributedDataParallel was built" in first["unfrozen"]
    assert "leave static_graph out" in first["static"]


def test_one_process_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match=r"not initialised: start the script with torchrun"):
        check_same(nn.Linear(2, 2))


def shrinks(rank: int, count: int) -> dict[str, Any]:
    """A search that shrinks, in one process or several; of several each needs DDP anew."""
    torch.manual_seed(0)
    model: Any = PIT(without_norms().double(), SHAPE, regularizer=Budget(size=300, macs=40_000, steps=40))
    optimizer = torch.optim.SGD(model.param_groups(lr=0.02, arch_lr=0.1), momentum=0.9)
    forward: Any = DistributedDataParallel(model) if count > 1 else model
    refused = ""
    for step in range(STEPS):
        x, y = (t.double() for t in batch(step, rank, count))
        optimizer.zero_grad()
        (loss_of(forward(x), y) + model.get_regularization_loss()).backward()
        optimizer.step()
        if step == 14:
            model.shrink(optimizer, share=1.0)
            if count > 1:
                with contextlib.suppress(ConfigError):
                    forward(x)
                    refused = "nothing was refused"
                forward = DistributedDataParallel(model)
    return {"refused": refused, "structure": model.arch_structure(), "state": model.state_dict()}


def test_processes_shrink_as_one_and_build_ddp_anew(world: World) -> None:
    first, second = world.run(shrinks)
    alone = shrinks(0, 1)
    assert first["refused"] == ""
    assert first["structure"] == second["structure"] == alone["structure"]
    assert same(first["state"], second["state"])
    for key, value in alone["state"].items():
        if value.is_floating_point():
            torch.testing.assert_close(first["state"][key], value, rtol=1e-7, atol=1e-9)
    assert "shrunk" in alone["state"]
