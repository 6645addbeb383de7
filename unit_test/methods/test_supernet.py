"""What a person does with supernets: weights, costs, temperature, polarisation, candidates."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from supernet_toys import Nested, Plain, SharedNorm, Sigmoid, TwoInputs, unit
from torch import nn

import nasopt
from benchmarks_mlperf_tiny.networks import ds_cnn, resnet8
from nasopt import PIT, PITSuperNet, SuperNet, SuperNetModule, supernet_candidates, with_candidates
from nasopt.cost import network_calls, network_cost
from nasopt.errors import ConfigError, NoEffectWarning
from nasopt.search.schedule import constant, exponential, linear

SHAPE = (3, 8, 8)


def conv(outputs: int = 4, kernel: int = 3, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(3, outputs, kernel, padding=kernel // 2, **more)


# --- weights and costs


def test_weights_follow_the_equations() -> None:
    model = SuperNet(Plain(), SHAPE, temperature=0.5)
    with torch.no_grad():
        model.choice_logits.copy_(torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 1.0]))
    choices = model.choice_summary()
    wanted = torch.softmax(torch.tensor([1.0, 2.0, 3.0]) / 0.5, 0)
    assert choices["first"]["probabilities"] == pytest.approx(wanted.tolist(), rel=1e-5)
    assert choices["first"]["entropy"] == pytest.approx(float(-(wanted * wanted.log()).sum()), rel=1e-5)
    assert (choices["first"]["chosen"], choices["second"]["chosen"]) == (2, 2)
    # R_icv = sum of mean(theta) / (var(theta) + eps)
    var = [torch.softmax(torch.tensor(a) / 0.5, 0).var(correction=0) for a in ([1.0, 2.0, 3.0], [0.0, 0.0, 1.0])]
    assert float(model.get_icv_loss(eps=0.1).detach()) == pytest.approx(
        float(sum(1 / 3 / (v + 0.1) for v in var)), rel=1e-5
    )
    with pytest.raises(ConfigError, match="eps"):
        model.get_icv_loss(eps=0.0)


def test_branches_are_drawn_by_their_probabilities() -> None:
    model = SuperNet(Plain(), SHAPE, paths="sampled", hard_softmax=True, gumbel_softmax=True, temperature=0.3)
    with torch.no_grad():
        model.choice_logits.copy_(torch.tensor([0.0, 1.0, 2.0, 0.0, 0.0, 0.0]))
    logits, temperatures = model.choice_logits, model.temperatures
    drawn = torch.stack([model._prepared.decisions.choices.draw(logits, temperatures).chosen for _ in range(4000)])
    shares = torch.bincount(drawn[:, 0], minlength=3) / 4000
    # Three standard deviations of a share are 0.024 at most; the temperature does not matter for what is drawn.
    assert shares.tolist() == pytest.approx(torch.softmax(torch.tensor([0.0, 1.0, 2.0]), 0).tolist(), abs=0.024)


def test_the_expected_cost_is_the_mean_over_the_choices() -> None:
    model = SuperNet(SharedNorm(), SHAPE).train()
    with torch.no_grad():
        model.choice_logits.copy_(torch.randn(model.choice_logits.shape))
    p = {name: one["probabilities"] for name, one in model.choice_summary().items()}
    expected = {"size": 0.0, "macs": 0.0}
    for outer in range(4):
        for inner in range(2):
            structure = {**model.arch_structure(), "choices": {"choice.branches.3": inner, "choice": outer}}
            del structure["sha256"]  # of what was found
            calls = network_calls(nasopt.restore(SharedNorm(), structure), SHAPE)
            for metric in expected:
                expected[metric] += p["choice"][outer] * p["choice.branches.3"][inner] * calls.total(metric)
    for metric, mean in expected.items():
        assert float(model.get_cost(metric).detach()) == pytest.approx(mean, rel=1e-5)


def test_cost_uses_the_draw_of_the_forward_pass() -> None:
    model = SuperNet(Plain(), SHAPE, gumbel_softmax=True, hard_softmax=True, paths="sampled").train()
    found = set()
    for _ in range(20):
        model(torch.randn(2, *SHAPE))
        cost = float(model.get_macs().detach())
        assert cost == float(model.get_macs().detach())
        found.add(cost)
    assert len(found) > 3


@pytest.mark.parametrize(("paths", "most"), [("sampled", 1), ("two", 2), ("all", 3)])
def test_only_active_branches_run(paths: Any, most: int) -> None:
    model = SuperNet(Plain(), SHAPE, paths=paths, hard_softmax=paths == "sampled").train()
    counts = []
    for name in ("first.branches.0.0", "first.branches.1.0", "first.branches.2.0"):
        model.net.get_submodule(name).register_forward_hook(lambda *_: counts.append(1))
    for _ in range(5):
        counts.clear()
        model(torch.randn(2, *SHAPE))
        assert len(counts) == most


def test_identity_costs_nothing() -> None:
    seed = nn.Sequential(conv(), SuperNetModule([nn.Identity(), nn.Conv2d(4, 4, 3, padding=1)]), nn.Conv2d(4, 2, 8))
    model = SuperNet(seed, SHAPE)
    assert model.get_cost("macs", discrete=True) == 3 * 4 * 9 * 64 + 4 * 2 * 64
    assert [type(m).__name__ for m in model.arch_export().children()] == ["Conv2d", "Conv2d"]


def test_exported_names_are_those_of_the_places() -> None:
    model = SuperNet(Nested(), SHAPE)
    with torch.no_grad():
        model.choice_logits.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0, 1.0]))
    assert model.choice_summary()["choice.branches.1.1"]["chosen"] == 1
    names = {name for name, _ in model.arch_export().named_parameters() if name.startswith("choice")}
    assert {"choice.0.0.weight", "choice.1.0.weight", "choice.2.weight"} <= names


def test_before_wrapping_the_module_is_a_mean_in_training_and_its_first_branch_in_evaluation() -> None:
    module, x = SuperNetModule([conv(), conv(kernel=5), conv(kernel=1)]), torch.randn(2, *SHAPE)
    mean = torch.stack([branch(x) for branch in module.branches]).mean(0)
    assert torch.allclose(module(x), mean, atol=1e-6)
    assert torch.equal(module.eval()(x), module.branches[0](x))
    two = TwoInputs().eval()
    assert two(x).shape == (2, 3)


# --- schedules


def test_schedules() -> None:
    assert [linear(4.0, 1.0, 3)(epoch) for epoch in range(5)] == pytest.approx([4, 3, 2, 1, 1])
    assert [exponential(8.0, 1.0, 3)(epoch) for epoch in range(5)] == pytest.approx([8, 4, 2, 1, 1])
    assert constant(2.0)(7) == 2.0
    with pytest.raises(ConfigError, match="epochs must be a finite number > 0"):
        linear(1.0, 0.5, 0)
    with pytest.raises(ConfigError, match="numbers > 0"):
        exponential(1.0, 0.0, 4)


def test_temperature_follows_its_schedule() -> None:
    model = SuperNet(Plain(), SHAPE, temperature=exponential(8.0, 1.0, 3))
    assert model.temperature == pytest.approx(8.0)
    model.set_epoch(2)
    assert model.temperature == pytest.approx(2.0)
    assert copy.deepcopy(model).temperature == pytest.approx(2.0)


def test_frozen_masks_get_no_gradient_and_do_not_prune() -> None:
    with pytest.warns(DeprecationWarning, match="PhaseSchedule"):
        model = PITSuperNet(Plain(), SHAPE, freeze_masks_epochs=2).train()
    x = torch.randn(2, *SHAPE)
    (model(x).sum() + model.get_regularization_loss()).backward()
    assert model.alpha.grad is None
    assert model.choice_logits.grad is not None
    with pytest.warns(NoEffectWarning, match="alpha, beta, gamma were held"):
        model.arch_export()
    model.set_epoch(2)
    (model(x).sum() + model.get_regularization_loss()).backward()
    assert model.alpha.grad is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.arch_export()


# --- masks of branches


def test_independent_masks_are_those_of_the_chosen_branch() -> None:
    shared, apart = (
        PITSuperNet(Sigmoid(), SHAPE, branch_masks=kind, kernel_search=False) for kind in ("shared", "independent")
    )
    assert (shared.alpha.numel(), apart.alpha.numel()) == (5, 10)
    with torch.no_grad():
        apart.alpha.copy_(torch.tensor([1.0, 0, 0, 0, 0, 1, 1, 0, 0, 1]))
    for branch, width in ((0, 1), (1, 3)):
        with torch.no_grad():
            apart.choice_logits.copy_(torch.eye(2)[branch])
        network = apart.arch_export()
        assert network.choice.out_channels == width
        assert apart.get_cost("size", discrete=True) == network_cost(network, "size", SHAPE)


def test_a_residual_keeps_the_shared_mask() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.choice, self.last = (
                conv(),
                SuperNetModule([unit(4, 4, 3), unit(4, 4, 1)]),
                nn.Conv2d(4, 2, 8),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.last(x + self.choice(x))

    assert PITSuperNet(Tied(), SHAPE, kernel_search=False).alpha.numel() == 4


# --- candidates


def test_candidates_of_a_convolution() -> None:
    x = torch.randn(2, 6, 9, 9)
    for stride, outputs, count in ((1, 6, 4), (1, 8, 3), (2, 6, 3)):
        layer = nn.Conv2d(6, outputs, 3, stride, 1)
        found = supernet_candidates(layer, nn.BatchNorm2d(outputs, eps=0.1), nn.ReLU6())
        assert len(found) == count
        assert len({branch(x).shape for branch in found}) == 1
        assert torch.equal(found[0][0].weight, layer.weight)
        assert found[1][0].kernel_size == (5, 5)
        assert found[1][1].eps == 0.1
        assert isinstance(found[1][2], nn.ReLU6)
        assert found[2][0].groups == 6
    with pytest.raises(ConfigError, match="got Linear"):
        supernet_candidates(nn.Linear(3, 3))


@pytest.mark.parametrize(("build", "shape", "count"), [(resnet8, (3, 32, 32), 7), (ds_cnn, (1, 49, 10), 5)])
def test_candidates_in_a_whole_model(build: Any, shape: tuple[int, ...], count: int) -> None:
    seed, x = build().eval(), torch.randn(2, *shape)
    model = with_candidates(seed, shape)
    assert sum(isinstance(m, SuperNetModule) for m in model.modules()) == count
    assert torch.equal(seed(x), model(x))
    search = PITSuperNet(model, shape, paths="two", regularizer="macs")
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in search.named_arch_parameters():
            parameter.copy_(torch.randn_like(parameter) + (name != "choice_logits"))
    network = search.arch_export()
    assert search.get_cost("macs", discrete=True) == network_cost(network, "macs", shape)
    assert PIT(network, shape).get_cost("size", discrete=True) == search.get_cost("size", discrete=True)


def test_where_candidates_go() -> None:
    def places(**where: Any) -> list[str]:
        model = with_candidates(resnet8(), (3, 32, 32), **where)
        return [name for name, m in model.named_modules() if isinstance(m, SuperNetModule)]

    assert places(where="stack1") == ["stack1.conv1", "stack1.conv2"]
    assert places(where=["stem", "*.conv2"]) == ["stem", "stack1.conv2", "stack2.conv2", "stack3.conv2"]
    assert places(where=lambda name, layer: layer.stride == (2, 2) and "conv" in name) == [
        "stack2.conv1",
        "stack3.conv1",
    ]
    with pytest.raises(ConfigError, match=r"matches none of the convolutions.*Did you mean 'stem'"):
        places(where="stme")


def test_models_without_a_place_for_candidates_are_told_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"no Conv1d or Conv2d .*nasopt\.SuperNetModule\(\[layer"):
        with_candidates(nn.Sequential(nn.Linear(4, 4)), (4,))
    with pytest.raises(ConfigError, match=r"the convolutions 0 have one tap: name those that .* in where="):
        with_candidates(nn.Sequential(nn.Conv2d(4, 4, 1)), (4, 3, 3))


def test_latency_is_expected_over_the_branches_and_exact_when_decided() -> None:
    metric = "latency:cortex_m4"
    model = PITSuperNet(Nested(), SHAPE, regularizer=metric, kernel_search=False)
    with torch.no_grad():
        model.choice_logits.copy_(torch.tensor([0.3, 0.0, 0.0, 0.5, 0.0, 0.5]))
        model.alpha[::3] = 0.0
    network = model.arch_export()
    exact = network_cost(network, metric, SHAPE)
    assert model.get_cost(metric, discrete=True) == exact
    assert float(model.eval().get_cost(metric).detach()) == pytest.approx(exact, rel=1e-9)
    expected = model.train().get_cost(metric)
    expected.backward()
    assert float(expected.detach()) != pytest.approx(exact, rel=1e-3)
    for parameter in (model.choice_logits, model.alpha):
        assert bool(torch.isfinite(parameter.grad).all())
        assert bool((parameter.grad != 0).any())


def test_an_identity_in_a_residual_block_ties_its_inner_channels() -> None:
    counts = {}
    for identity in (True, False):
        seed = with_candidates(resnet8(width=4), (3, 32, 32), identity=identity, kernels=(3,))
        for masks in ("shared", "independent"):
            model = PITSuperNet(seed, (3, 32, 32), branch_masks=masks, kernel_search=False, verify=False)
            counts[identity, masks] = model.alpha.numel()
    # Three stacks of 4, 8 and 16 channels; without the identity the inner channels of each, once or per branch.
    assert counts[True, "shared"] == counts[True, "independent"] == 28
    assert counts[False, "shared"] == 56
    assert counts[False, "independent"] == 28 + 2 * 28


class WithBranches(nn.Module):
    """Its `branches` are no alternatives, one of them holds some."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({"left": SuperNetModule([nn.Conv2d(3, 3, 1), nn.Identity()])})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.branches["left"](x)


def test_a_layer_of_ones_own_may_be_called_branches() -> None:
    seed = nn.Sequential(WithBranches())
    assert SuperNet(seed, (3, 4, 4)).search_space()["cost"]["size"] == {"smallest": 0, "now": 12, "seed": 12}
