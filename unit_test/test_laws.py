"""The laws that every method keeps for every seed."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from settings import (
    ARCHITECTURES,
    SETTINGS,
    Setting,
    every_case,
    largest_difference,
    main_case,
    scramble,
    task_loss,
    train_steps,
    wrapped,
)
from torch import nn
from toys import TOYS, Toy

from nasopt.cost import metric_names


def same_state(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def global_state() -> tuple[Any, ...]:
    numpy_state = np.random.get_state()  # noqa: NPY002  (the global state is what may not change)
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        (numpy_state[1].tolist(), numpy_state[2:]),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        [id(getattr(torch, name)) for name in ("zeros", "ones", "empty", "full", "rand", "randn", "arange")],
        (nn.Module.__call__, nn.Module.__getattr__),
    )


def everything_of(seed: nn.Module) -> list[Any]:
    """Names, identities, modes and attributes of every module, and identities and flags of every tensor."""
    modules = [(n, id(m), m.training, sorted(vars(m)), type(m)) for n, m in seed.named_modules(remove_duplicate=False)]
    parameters = [(n, id(p), p.requires_grad, p.grad is None) for n, p in seed.named_parameters(remove_duplicate=False)]
    return [modules, parameters, [(n, id(b)) for n, b in seed.named_buffers()]]


@every_case
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_identity(setting: Setting, toy: Toy, training: bool) -> None:
    """Wrapping changes no output and no statistics, in eval and in train mode."""
    seed, inputs = toy.seed(), toy.batch()
    model = setting.wrap(seed, inputs)
    seed.train(training)
    model.train(training)
    torch.manual_seed(1)
    wanted = seed(*inputs)
    torch.manual_seed(1)
    assert largest_difference(wanted, model(*inputs)) < 1e-12
    own = model.net.state_dict()
    for name, tensor in seed.state_dict().items():
        if name in own:
            torch.testing.assert_close(own[name], tensor, rtol=1e-12, atol=1e-12)


@main_case
def test_isolation(setting: Setting, toy: Toy) -> None:
    """The user's seed, its modes and attributes, and all global state stay as they were."""
    seed, inputs = toy.seed(), toy.batch()
    seed.eval()
    for child in list(seed.children())[:1]:
        child.training = True
    state, attributes, globals_before = copy.deepcopy(seed.state_dict()), everything_of(seed), global_state()
    model = setting.wrap(seed, inputs)
    assert model.training is False
    model.arch_summary(), model.explain(), str(model), model.arch_structure(), model.arch_export()
    assert global_state() == globals_before
    train_steps(model, inputs, 1)
    model.arch_export()
    assert everything_of(seed) == attributes
    assert same_state(seed.state_dict(), state)


@main_case
def test_channels_counted_by_hand(setting: Setting, toy: Toy) -> None:
    """Exactly the channels that can go are searchable, and explain() gives a reason for every other group."""
    model, _ = wrapped(setting, toy)
    groups = model.explain().groups
    assert sum(group.size for group in groups if group.searchable) == toy.channels
    assert all(bool(group.reason) != group.searchable for group in groups)


@every_case
def test_faithful_export(setting: Setting, toy: Toy) -> None:
    """The exported network computes what the search model computes, whatever the parameters; the latter is untouched."""
    model, inputs = wrapped(setting, toy)
    for kind in ["uniform", "all_zero"] if toy.is_network else ARCHITECTURES:
        model.train()
        scramble(model, kind)
        before = copy.deepcopy(model.state_dict())
        network = model.arch_export(verify=False)
        assert same_state(model.state_dict(), before)
        assert network.training is model.training is True
        model.eval(), network.eval()
        with torch.no_grad():
            assert largest_difference(model(*inputs), network(*inputs)) < 1e-9, kind


@main_case
def test_faithful_export_after_training(setting: Setting, toy: Toy) -> None:
    """Also with weights and statistics that were trained under masks; and the export trains on its own."""
    model, inputs = wrapped(setting, toy)
    scramble(model)
    train_steps(model, inputs)
    network = model.arch_export()
    model.eval(), network.eval()
    assert largest_difference(model(*inputs), network(*inputs)) < 1e-9
    before = copy.deepcopy(model.state_dict())
    network.train()
    task_loss(network(*inputs)).backward()
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    assert same_state(model.state_dict(), before)


@main_case
def test_reading_is_free_of_effects(setting: Setting, toy: Toy) -> None:
    """Costs, summaries and exports change nothing."""
    model, _ = wrapped(setting, toy)
    scramble(model)
    state, seen = copy.deepcopy(model.state_dict()), everything_of(model)
    for name in [name for name in metric_names() if ":" not in name] + ["latency:cortex_m4"] * toy.multiplies:
        assert model.get_cost(name, discrete=True) == model.get_cost(name, discrete=True)
        model.get_cost(name)
    model.get_regularization_loss()
    model.search_space(), model.arch_summary(), model.arch_structure(), str(model), str(model.explain())
    model.check_gradients(), model.arch_export()
    assert same_state(model.state_dict(), state)
    assert everything_of(model) == seen


@main_case
def test_partition(setting: Setting, toy: Toy) -> None:
    """Architecture and network parameters are disjoint and cover all parameters."""
    model, _ = wrapped(setting, toy)
    arch, net = dict(model.named_arch_parameters()), dict(model.named_net_parameters())
    assert not arch.keys() & net.keys()
    assert {id(p) for p in [*arch.values(), *net.values()]} == {id(p) for p in model.parameters()}
    assert [id(p) for p in model.arch_parameters()] == [id(p) for p in arch.values()]
    assert len({id(p) for p in net.values()}) == len(list(model.net_parameters()))
    groups = model.param_groups(lr=0.1, arch_lr=0.2, weight_decay=0.3)
    assert [(len(g["params"]), g["lr"], g["weight_decay"]) for g in groups] == [
        (len(net), 0.1, 0.3),
        (len(arch), 0.2, 0),
    ]


@main_case
@pytest.mark.parametrize("kind", ["ones", "uniform"])
def test_gradient(setting: Setting, toy: Toy, kind: str) -> None:
    """Every architecture parameter gets a finite gradient from every metric that depends on it, and from the task."""
    model, inputs = wrapped(setting, toy)
    if kind != "ones":
        scramble(model, kind)
    for name, parameter in model.named_arch_parameters():
        for metric in ("size", "macs" if toy.multiplies else "ops"):
            (gradient,) = torch.autograd.grad(model.get_cost(metric), parameter, allow_unused=False)
            assert bool(torch.isfinite(gradient).all())
            # A channel costs weights and work wherever it stands; a tap does where its kernel is not masked otherwise.
            if name == "alpha" or kind == "ones":
                assert bool((gradient != 0).all()), (name, metric)
    loss = task_loss(model(*inputs))
    loss.backward()
    for parameter in model.parameters():
        assert parameter.grad is None or bool(torch.isfinite(parameter.grad).all())
    for name, parameter in model.named_arch_parameters():
        assert parameter.grad is not None, name
        assert not parameter.numel() or bool((parameter.grad != 0).any()), name


@every_case
def test_never_empty(setting: Setting, toy: Toy) -> None:
    """At least one channel of every group survives, whatever the parameters."""
    model, _ = wrapped(setting, toy)
    for kind in ARCHITECTURES:
        scramble(model, kind)
        layers = model.arch_summary()["layers"].values()
        assert all(layer["out_channels"] >= 1 and layer["in_channels"] >= 1 for layer in layers)
        assert all(size >= 1 for layer in layers for size in layer["kernel_size"])
        cost = model.search_space()["cost"]
        assert all(of["smallest"] <= of["now"] <= of["seed"] for of in cost.values())
        assert all(0 < of["smallest"] < of["seed"] for of in cost.values())


def test_every_setting_and_toy_is_used() -> None:
    assert len(SETTINGS) >= 2
    assert len(TOYS) >= 45
