"""Branches that leave in mid-search: what goes on is the search of a seed that never had them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt import PIT, Budget, PhaseSchedule, PITSuperNet, SuperNet, SuperNetModule
from nasopt.errors import ConfigError, NoEffectWarning
from unit_test.methods.phase_toys import SHAPE, alternatives, convnet, unit

OUTER, INNER = "0", "0.branches.0"


def without(branch: int) -> nn.Module:
    """The same seed that never had a branch."""
    seed = alternatives()
    choice: Any = seed[0]
    seed[0] = SuperNetModule([one for i, one in enumerate(choice.branches) if i != branch])
    return seed


def step(model: Any, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(6, *SHAPE, generator=generator, dtype=torch.float64)
    torch.manual_seed(number)
    optimizer.zero_grad(set_to_none=True)
    outputs: Tensor = model.train()(x)
    loss = F.cross_entropy(outputs, x.mean((2, 3)).argmax(1)) + model.get_regularization_loss()
    loss.backward()
    optimizer.step()
    return outputs.detach()


def make(seed: nn.Module, front: Any = PITSuperNet, **options: Any) -> tuple[Any, torch.optim.Optimizer]:
    model = front(seed, SHAPE, **{"regularizer": {"size": 1e-2}, **options}).double()
    return model, torch.optim.Adam(model.param_groups(lr=1e-2, arch_lr=1e-2))


@pytest.mark.parametrize("front", [SuperNet, PITSuperNet])
@pytest.mark.parametrize("branch", [0, 1, 2])
def test_the_search_goes_on_as_that_of_a_seed_without_the_branch(front: Any, branch: int) -> None:
    torch.manual_seed(0)
    model, optimizer = make(alternatives(), front)
    other, second = make(without(branch), front)
    with torch.no_grad():
        model.choice_logits[branch] = -1.0
        if front is PITSuperNet:  # a channel that lives in the branch alone holds nothing
            model.alpha[torch.arange(4) * 3 + (branch + 1) % 3] += 0.1
    left = [i for i in range(3) if i != branch]
    given = {name: value for name, value in model.state_dict().items() if ".branches." not in name}
    for new, old in enumerate(left):
        start = f"net.0.branches.{old}."
        given |= {
            f"net.0.branches.{new}.{name.removeprefix(start)}": value
            for name, value in model.state_dict().items()
            if name.startswith(start)
        }
    given["choice_logits"] = model.choice_logits[left]
    if front is PITSuperNet:
        groups = model._prepared.decisions.masks.channels.unit_group
        names = [group.writers[0] for group in model.analysis.searchable]
        stays = [not names[g].startswith(f"0.branches.{branch}.") for g in groups]
        given["alpha"] = model.alpha[torch.tensor(stays)]
        axes = model._prepared.decisions.masks.kernels
        inside = [axes.axes[i].axis[0].startswith(f"0.branches.{branch}.") for i in axes.field.ladder]
        given["beta"] = model.beta[~torch.tensor(inside)]
    other.load_state_dict(given)

    report = model.drop_branches(optimizer, share=0.5, when="now")
    assert report == {"when": "now", "channels": {}, "kernels": {}, "branches": {OUTER: [branch]}}
    assert model.shrunk.history == [report]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    gone = [p for name, p in model.named_parameters() if name.startswith(f"net.0.branches.{branch}.")]
    assert gone
    assert not any(id(p) in held or p.requires_grad for p in gone)
    for number in range(4):
        torch.testing.assert_close(step(model, optimizer, number), step(other, second, number), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(model.choice_logits[left], other.choice_logits, rtol=1e-9, atol=1e-9)
        for metric in ("size", "macs"):
            torch.testing.assert_close(model.get_cost(metric), other.get_cost(metric), rtol=1e-9, atol=1e-9)
            assert model.get_cost(metric, discrete=True) == other.get_cost(metric, discrete=True)
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(model.eval()(x), other.eval()(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.arch_export()(x), other.arch_export()(x), rtol=1e-9, atol=1e-9)
    assert model.choice_summary()[OUTER]["probabilities"][branch] == 0
    torch.testing.assert_close(model.get_icv_loss(), other.get_icv_loss())


@pytest.mark.parametrize("options", [{"paths": "two"}, {"paths": "sampled", "hard_softmax": True}])
def test_draws_are_those_of_a_branch_that_is_never_drawn(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, optimizer = make(alternatives(), SuperNet, **options)
    other = copy.deepcopy(model)
    with torch.no_grad():
        model.choice_logits[1], other.choice_logits[1] = -1.0, -1e3
    second = torch.optim.Adam(other.param_groups(lr=1e-2, arch_lr=1e-2))
    model.drop_branches(optimizer, share=0.5)
    for number in range(6):
        torch.testing.assert_close(step(model, optimizer, number), step(other, second, number), rtol=1e-9, atol=1e-9)


def nested() -> nn.Module:
    inner = SuperNetModule([nn.Sequential(*unit(3)), nn.Sequential(*unit(1))])
    outer = SuperNetModule([inner, nn.Sequential(*unit(5)), nn.Sequential(*unit(1)), nn.Sequential(*unit(3))])
    return nn.Sequential(outer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def test_they_leave_in_equal_steps_and_a_checkpoint_knows_which() -> None:
    torch.manual_seed(0)
    model, optimizer = make(nested(), SuperNet)
    phases = PhaseSchedule(
        model, warmup=1, search=4, finetune=1, strength=0.1, shrink=optimizer, eliminate=True, freeze={"masks": 1}
    )
    counts = []
    with torch.no_grad():
        model.choice_logits.copy_(torch.tensor([0.0, 0.1, 0.3, 0.2, 0.1, 0.0]))
    for _ in range(phases.epochs):
        if phases.epoch == 3:
            saved, epoch = copy.deepcopy(model.state_dict()), copy.deepcopy(phases.state_dict())
        phases.step()
        counts.append([len(model._prepared.decisions.choices.options[path]) for path in (INNER, OUTER)])
    # Of 3 branches that will go a third leaves in every epoch, of 1 (rounded up) the last: 3 of 4 epochs are three quarters.
    assert counts == [[2, 4], [2, 3], [2, 2], [1, 1], [1, 1], [1, 1]]
    assert [(r["when"], r["branches"]) for r in model.shrunk.history] == [
        (1, {OUTER: [3]}),
        (2, {OUTER: [2]}),
        (3, {INNER: [0], OUTER: [1]}),
    ]
    assert model.arch_structure()["choices"] == {INNER: 1, OUTER: 0}

    fresh, again = make(nested(), SuperNet)
    going_on = PhaseSchedule(fresh, warmup=1, search=4, finetune=1, strength=0.1, shrink=again, eliminate=True)
    fresh.load_state_dict(saved)
    going_on.load_state_dict(epoch)
    assert fresh._prepared.decisions.choices.options[OUTER] == [0, 1]
    while going_on.epoch < going_on.epochs:
        going_on.step()
    assert fresh.shrunk.history == model.shrunk.history
    for copied in (copy.deepcopy(fresh), fresh):
        assert copied._prepared.decisions.choices.options[OUTER] == [0]
    with pytest.raises(ConfigError, match=r"branches of '0\.branches\.0' that the state holds are gone here"):
        model.load_state_dict(make(nested(), SuperNet)[0].state_dict())


def test_a_budget_keeps_what_it_needs() -> None:
    # 3 * 4 * 9 + 4 weights of the 3x3, 3 * 4 + 4 of the 1x1, 3 * 4 * 25 + 4 of the 5x5, and 15 behind them.
    model, optimizer = make(alternatives(), SuperNet, regularizer=Budget(size=40))
    with torch.no_grad():
        model.choice_logits.copy_(torch.tensor([1.0, -9.0, 0.0]))
    assert model.drop_branches(optimizer)["branches"] == {OUTER: [0, 2]}
    assert model.get_cost("size", discrete=True) == 31


def test_channels_of_what_is_gone_hold_no_others() -> None:
    torch.manual_seed(0)
    model, optimizer = make(alternatives())
    groups = model._prepared.decisions.masks.channels.unit_group
    with torch.no_grad():
        model.choice_logits.copy_(torch.tensor([1.0, -1.0, 0.0]))
        # Branch 1 alone keeps channels 1 to 3; of the others channel 0 stays.
        for index, group in enumerate(model.analysis.searchable):
            if not group.writers[0].startswith("0.branches.1."):
                model.alpha[torch.nonzero(groups == index)[1:]] = 0.0
    assert copy.deepcopy(model).shrink()["channels"] == {}
    model.drop_branches(optimizer, share=0.5)
    gone = model.shrink(optimizer)["channels"]
    # Two are left of four: one channel after a choice could not be told from a number per sample.
    assert {len(own) for own in gone.values()} == {2}
    step(model, optimizer, 0)
    model.eval().arch_export()


def without_branches() -> Any:
    with pytest.warns(NoEffectWarning, match="finds no SuperNetModule"):
        return make(convnet(), PITSuperNet)[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(convnet(), PIT)[0].drop_branches(), "there is no branch to choose from in this PIT"),
        (lambda: make(alternatives())[0].drop_branches(share=1.5), "share must be a number from 0 to 1, got 1.5"),
        (
            lambda: make(alternatives())[0].drop_branches(make(alternatives())[1]),
            "holds no parameter of this PITSuperNet",
        ),
        (
            lambda: PhaseSchedule(make(convnet(), PIT)[0], search=1, strength=1.0, eliminate=True),
            "eliminate drops branches, and this PIT searches none",
        ),
        (
            lambda: PhaseSchedule(without_branches(), search=1, strength=1.0, eliminate=True),
            "eliminate drops branches, and this PITSuperNet searches none",
        ),
        (
            lambda: PhaseSchedule(
                *make(alternatives(), SuperNet)[:1], search=1, strength=1.0, shrink=make(convnet(), PIT)[1]
            ),
            "SuperNet has no masks: leave it out",
        ),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
