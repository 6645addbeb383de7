"""Bad input to searches of branches: what is said, and to whom."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from supernet_toys import Plain, unit
from torch import nn

import nasopt
from nasopt import PIT, PITSuperNet, SuperNet, SuperNetModule
from nasopt.errors import ArchitectureError, ConfigError, NoEffectWarning

SHAPE = (3, 8, 8)


def conv(outputs: int = 4, kernel: int = 3, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(3, outputs, kernel, padding=kernel // 2, **more)


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        ([], "got 0 branch"),
        ([nn.ReLU()], "got 1 branch"),
        ([nn.ReLU(), "conv"], "branch 1 is a str"),
        ([conv(), conv().double()], r"branch 1 is torch.float64, branch 0 is torch.float32"),
    ],
)
def test_branches_that_cannot_be_chosen_from(branches: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SuperNetModule(branches)


def test_branches_with_shared_parameters() -> None:
    shared = conv()
    with pytest.raises(ConfigError, match=r"branch 1 shares '0.weight' with branch 0 \('weight'\)"):
        SuperNetModule([shared, nn.Sequential(shared, nn.ReLU())])


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf"), "hot", True])
def test_temperatures_that_are_none(temperature: Any) -> None:
    with pytest.raises(ConfigError, match="temperature must be a finite number > 0"):
        SuperNetModule([conv(), conv()], temperature=temperature)
    model = SuperNet(Plain(), SHAPE)
    with pytest.raises(ConfigError, match="temperature must be a finite number > 0"):
        model.temperature = temperature
    assert model.temperature == 1.0


def test_a_branch_with_another_output_shape_is_named() -> None:
    seed = nn.Sequential(conv(), nn.Sequential(SuperNetModule([unit(4, 5, 3), unit(4, 6, 3)])))
    message = (
        r"SuperNetModule '1.0', branch 1 \(Sequential\) maps \(2, 4, 8, 8\) to \(2, 6, 8, 8\).*branch 0.*\(2, 5, 8, 8\)"
    )
    with pytest.raises(ConfigError, match=message):
        SuperNet(seed, SHAPE)


@pytest.mark.parametrize("position", [0, 1])
def test_a_branch_that_fails_on_its_input_is_named(position: int) -> None:
    branches = [unit(4, 4, 3), unit(4, 4, 3)]
    branches[position] = unit(7, 4, 3)
    with pytest.raises(
        ConfigError, match=rf"'1', branch {position} \(Sequential\) fails on its input of shape \(2, 4, 8, 8\)"
    ):
        SuperNet(nn.Sequential(conv(), SuperNetModule(branches)), SHAPE)


def test_a_nested_branch_is_named_from_the_outside() -> None:
    inner = SuperNetModule([nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 5)])
    with pytest.raises(ConfigError, match=r"SuperNetModule '1.branches.1.0', branch 1 \(Conv2d\) maps"):
        SuperNet(nn.Sequential(conv(), SuperNetModule([nn.Conv2d(4, 4, 3), nn.Sequential(inner)])), SHAPE)


def test_a_branch_that_changes_its_input_in_place() -> None:
    choice = SuperNetModule([nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1)), nn.Identity()])
    with pytest.raises(ConfigError, match=r"'1', branch 0: .* changes the branch's input in place.*inplace=False"):
        SuperNet(nn.Sequential(conv(), choice), SHAPE)


def test_a_branch_that_returns_no_tensor() -> None:
    with pytest.raises(ConfigError, match=r"branch 0 .* returns a tuple"):
        SuperNet(nn.Sequential(SuperNetModule([nn.MaxPool2d(2, return_indices=True), nn.MaxPool2d(2)])), SHAPE)


@pytest.mark.parametrize("method", [SuperNet, PITSuperNet])
def test_one_sampled_path_needs_hard_weights(method: Any) -> None:
    with pytest.raises(ConfigError, match=r'paths="sampled" runs one branch, but the weights of .first. are soft'):
        method(Plain(), SHAPE, paths="sampled", gumbel_softmax=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"paths": "tow"}, "unknown paths 'tow'.*Did you mean 'two'"),
        ({"branch_masks": "share"}, "unknown branch_masks 'share'.*Did you mean 'shared'"),
        ({"channel_block": 0}, "channel_block must be an int >= 1"),
        ({"freeze_masks_epochs": -1}, "freeze_masks_epochs must be a finite number >= 0"),
        ({"temperature": 0}, "temperature must be"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PITSuperNet(Plain(), SHAPE, **arguments)


def test_pit_says_which_class_to_use() -> None:
    with pytest.raises(ConfigError, match=r"'first' is a SuperNetModule.*nasopt.SuperNet .*nasopt.PITSuperNet"):
        PIT(Plain(), SHAPE)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite(bad: float) -> None:
    model = SuperNet(Plain(), SHAPE)
    with torch.no_grad():
        model.choice_logits[0] = bad
    for read in (model.get_size, model.get_icv_loss, model.arch_export, lambda: model(torch.randn(2, *SHAPE))):
        with pytest.raises(ArchitectureError, match="'choice_logits' are NaN or infinite"):
            read()
    with pytest.raises(ArchitectureError):
        model.get_regularization_loss()


@pytest.mark.parametrize("method", [SuperNet, PITSuperNet])
def test_a_model_without_choices_gets_a_warning(method: Any) -> None:
    with pytest.warns(NoEffectWarning, match="SuperNetModule"):
        model = method(nn.Sequential(conv(), nn.ReLU(), nn.Conv2d(4, 2, 3)), SHAPE)
    assert model(torch.randn(2, *SHAPE)).shape == (2, 2, 6, 6)
    assert model.arch_export() is not None


def test_a_structure_of_another_seed() -> None:
    structure = SuperNet(Plain(), SHAPE).arch_structure()
    del structure["sha256"]  # changed on purpose
    with pytest.raises(ConfigError, match="says nothing of them"):
        nasopt.restore(Plain(), {**structure, "choices": {}})
    with pytest.raises(ConfigError, match="no choice there"):
        nasopt.restore(Plain(), {**structure, "choices": {**structure["choices"], "third": 0}})
    with pytest.raises(ConfigError, match="chooses branch 7 of 'first', the seed has 3 branches"):
        nasopt.restore(Plain(), {**structure, "choices": {"first": 7, "second": 0}})
