"""The law of the round trip: copies, files, dtypes and rebuilt networks behave as the original."""

from __future__ import annotations

import copy
import io
import json
import pickle
from typing import Any

import pytest
import torch
from settings import Setting, largest_difference, main_case, scramble, task_loss, train_steps, wrapped
from torch import fx, nn
from torch.utils import _pytree as pytree
from toys import Toy

import nasopt

# Torch itself refuses to pickle parametrized layers.
UNPICKLED = {"parametrized"}


def outputs(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    model.eval()
    with torch.no_grad():
        return model(*inputs)


def through_file(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@main_case
def test_copies_in_mid_training(setting: Setting, toy: Toy) -> None:
    """deepcopy and pickle of a search model: equal outputs, costs and state, and nothing shared afterwards."""
    model, inputs = wrapped(setting, toy)
    train_steps(model, inputs, 1)
    scramble(model)
    loss = task_loss(model(*inputs))
    loss.backward()
    twins = [copy.deepcopy(model)]
    if toy.name not in UNPICKLED:
        twins.append(pickle.loads(pickle.dumps(model)))
    for twin in twins:
        assert twin.training
        assert twin.get_cost("macs", discrete=True) == model.get_cost("macs", discrete=True)
        assert largest_difference(outputs(copy.deepcopy(model), inputs), outputs(copy.deepcopy(twin), inputs)) == 0
        state = copy.deepcopy(model.state_dict())
        train_steps(twin, inputs, 1)
        twin.arch_export()
        assert all(torch.equal(model.state_dict()[key], state[key]) for key in state)


@main_case
def test_state_dict(setting: Setting, toy: Toy) -> None:
    """A search model's state loads into a fresh one; a seed's state into its search model."""
    model, inputs = wrapped(setting, toy)
    scramble(model)
    fresh, _ = wrapped(setting, toy)
    fresh.load_state_dict(through_file(model.state_dict()))
    assert largest_difference(outputs(model, inputs), outputs(fresh, inputs)) == 0
    assert fresh.get_cost("size", discrete=True) == model.get_cost("size", discrete=True)
    other = toy.seed()
    fresh, _ = wrapped(setting, toy)
    fresh.load_state_dict(other.state_dict())
    assert largest_difference(outputs(other, inputs), outputs(fresh, inputs)) < 1e-12


@main_case
@pytest.mark.filterwarnings("ignore::nasopt.errors.NoEffectWarning")
def test_export_is_a_plain_graph_module(setting: Setting, toy: Toy) -> None:
    """The seed's names, torch's layers, no trace of the search; pickled and saved; wrapped again."""
    model, inputs = wrapped(setting, toy)
    scramble(model)
    seed = toy.seed()
    network = model.arch_export()
    assert isinstance(network, fx.GraphModule)
    plain = ("torch.", "nasopt.nn.")
    own = [m for m in network.modules() if m is not network and not type(m).__module__.startswith(plain)]
    assert not own
    modes = {n for n, m in network.named_modules() if isinstance(m, (nn.Dropout, nasopt.nn.ByMode))}
    assert {n for n, _ in network.named_modules()} - modes <= {n for n, _ in seed.named_modules()}
    assert {n for n, _ in network.named_parameters()} <= {n for n, _ in seed.named_parameters()}
    wanted = outputs(network, inputs)
    copies = [copy.deepcopy(network)]
    if toy.name not in UNPICKLED:
        copies += [pickle.loads(pickle.dumps(network)), through_file(network)]
    for again in copies:
        assert largest_difference(wanted, outputs(again, inputs)) == 0
    assert largest_difference(wanted, outputs(setting.wrap(network, inputs).arch_export(), inputs)) < 1e-9


@main_case
def test_structure_rebuilds_the_network(setting: Setting, toy: Toy) -> None:
    """Seed factory, JSON and state dict are all that is to keep."""
    model, inputs = wrapped(setting, toy)
    for kind in ("uniform", "all_zero"):
        scramble(model, kind)
        network = model.arch_export()
        structure = json.loads(json.dumps(model.arch_structure()))
        rebuilt = nasopt.restore(toy.seed(), structure)
        assert [n for n, _ in rebuilt.named_parameters()] == [n for n, _ in network.named_parameters()]
        rebuilt.load_state_dict(network.state_dict())
        assert largest_difference(outputs(network, inputs), outputs(rebuilt, inputs)) == 0


@main_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dtype(setting: Setting, toy: Toy, dtype: torch.dtype) -> None:
    """`.to(dtype)` of a search model, and a seed of that dtype: decisions stay, the export carries the dtype."""
    if toy.name == "parametrized" and dtype == torch.bfloat16:
        pytest.skip("torch's spectral norm has no half precision on CPU")
    model, inputs = wrapped(setting, toy)
    scramble(model)
    size = model.get_cost("size", discrete=True)
    model.to(dtype)
    converted = pytree.tree_map_only(torch.Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, inputs)
    if all(bool(((p - 0.5).abs() > 0.01).all()) for p in model.arch_parameters()):
        assert model.get_cost("size", discrete=True) == size
    network = model.arch_export(verify=dtype == torch.float32)
    assert {p.dtype for p in network.parameters()} == {dtype}
    outputs(network, converted), outputs(model, converted)
    model.get_regularization_loss().backward()
