"""One set of weights, several switches: gradients add up, norms are private, a switch leaves as what it computes."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nasopt
from nasopt import PIT, Budget, MixedPrecision, Precision, Switch, Switchable, allocate_bits
from nasopt.errors import ConfigError
from nasopt.train import kd_loss

BOTH = Precision(weights=(2, 4, 8), activations=(4, 8))
SWITCHES = [(8, 8), (4, 4), (2, 4)]


def seed() -> nn.Module:
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*first, nn.Conv2d(8, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def batch(size: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 1, 8, 8), torch.randint(3, (size,))


def made(method: Any = MixedPrecision, precision: Precision = BOTH, **options: Any) -> Switchable:
    model = method(seed(), (1, 8, 8), precision=precision)
    model.calibrate([batch()[0]])
    return Switchable(model, options.pop("switches", SWITCHES), **options).train()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("distil", [True, False])
def test_the_gradient_of_a_step_is_the_sum_of_the_switches(distil: bool) -> None:
    x, y = batch()
    model = made(distil=distil)
    alone: dict[str, Tensor] = {}
    answers = None
    for switch in SWITCHES:
        one = copy.deepcopy(model)
        outputs = one.use(switch)(x)
        answers = outputs.detach() if answers is None else answers
        first = switch == SWITCHES[0] or not distil
        nn.functional.cross_entropy(outputs, y).backward() if first else kd_loss(
            outputs, answers, None, temperature=1, share=1
        ).backward()
        for name, gradient in gradients(one).items():
            # The active norms of a model are those of its switch: they are counted under the switch's own name.
            alone[name] = alone.get(name, torch.zeros(())) + gradient
    model.backward(x, y)
    found = gradients(model)
    assert found.keys() >= {"model.net.3.weight", "private.1.1.weight", "model.net.3.weight_log_steps"}
    own = {name for name in found if not name.startswith(("private.", "model.net.1.", "model.net.4."))}
    assert all(torch.allclose(found[name], alone[name], atol=1e-6) for name in own)
    assert all(bool(p.grad.abs().any()) for i in range(3) for p in model.private[i].parameters())  # type: ignore[union-attr]


def test_a_switch_leaves_the_norms_of_others_alone() -> None:
    model = made()
    before = copy.deepcopy(model.private.state_dict())
    model.use((4, 4))(batch()[0])
    after = model.private.state_dict()
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"1"}


@pytest.mark.parametrize("norms", ["private", "shared"])
@pytest.mark.parametrize("method", [MixedPrecision, PIT])
def test_an_exported_switch_computes_what_the_switch_does(method: Any, norms: Any) -> None:
    switches = [*SWITCHES, (4, 8, 0.5)] if method is PIT else SWITCHES
    model = made(method, switches=switches, norms=norms, features=0.1)
    model.backward(*batch())
    x, costs = batch()[0], []
    for switch in model.switches:
        model.train().use(switch)
        nasopt.recalibrate(model, [x])
        wanted = model.eval()(x)
        found = model.export(switch, recalibrate=[x] if norms == "shared" else None)
        assert torch.allclose(found.eval()(x), wanted, atol=1e-6)
        costs.append(model.model.get_cost("size_bits", discrete=True))
    assert sorted(costs[:3], reverse=True) == costs[:3]
    assert method is MixedPrecision or costs[3] < costs[1]
    assert model.active == len(switches) - 1  # exports leave the switch in use


def test_widths_per_channel_switch_together() -> None:
    per_layer, per_channel = (
        made(precision=Precision(weights=(2, 4, 8), activations=(4, 8), granularity=granularity))
        for granularity in ("layer", "channel")
    )
    for switch in per_layer.switches:
        costs = [m.use(switch).model.get_cost("size_bits", discrete=True) for m in (per_layer, per_channel)]
        assert costs[0] == costs[1]


def test_slimmable_widths_are_the_first_channels() -> None:
    model = made(PIT, switches=[(8, 8), (8, 8, 0.5)])
    model.backward(*batch())
    found = model.export((8, 8, 0.5))
    assert (found.get_submodule("0").out_channels, found.get_submodule("3").out_channels) == (3, 4)
    assert torch.equal(found.get_submodule("3").weight, model.model.net.get_submodule("3").weight[:4, :3])


def test_widths_of_every_layer_afterwards() -> None:
    model = made()
    model.backward(*batch())
    batches = [batch()]
    widths = allocate_bits(model.model, batches, Budget(average_bits=5))
    before = copy.deepcopy(model.state_dict())
    found = model.export(Switch(widths, 4), recalibrate=batches)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {name: found.get_submodule(name).bits for name in widths} == widths
    with pytest.raises(ConfigError, match=r"was not trained: give recalibrate"):
        model.export(Switch(widths, 4))


def test_copies_moves_and_states() -> None:
    model = made()
    model.backward(*batch())
    x = batch()[0]
    for twin in (copy.deepcopy(model), made()):
        twin.load_state_dict(model.use((2, 4)).state_dict())
        for switch in SWITCHES:
            assert torch.equal(twin.use(switch).eval()(x), model.use(switch).eval()(x))
    double = copy.deepcopy(model).double()
    double.train().use((4, 4))(x.double())
    norm = double.model.net.get_submodule("1")
    assert norm.running_mean is double.private[1].get_submodule("1").running_mean  # type: ignore[union-attr]


def test_the_sandwich_runs_four() -> None:
    switches = list(itertools.product((8, 4, 2), (8, 4)))
    model = made(switches=switches, sandwich=True)
    ran = [model.backward(*batch()) for _ in range(6)]
    assert all(len(one) == 4 and {0, 5} <= set(one) for one in ran)
    assert len({frozenset(one) for one in ran}) > 1


def test_shared_norms_belong_to_no_switch() -> None:
    """On one batch again and again: statistics of private norms become those of their switch, shared ones lie between them."""
    x, variances = batch(16)[0], {}
    for norms in ("private", "shared"):
        model = made(precision=Precision(weights=(1, 8), first_last=None), switches=[(8, 8), (1, 8)], norms=norms)
        norm: Any = model.model.net.get_submodule("4")
        for one in (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
            one.momentum = 0.5
        for _ in range(20):
            for switch in model.switches:
                model.use(switch)(x)
        variances[norms] = [model.use(switch) and norm.running_var.clone() for switch in model.switches]
    own = torch.stack(variances["private"])
    assert bool(((own[0] / own[1] - 1).abs() > 0.01).all())
    shared = variances["shared"][0]
    assert bool(((own.amin(0) < shared) & (shared < own.amax(0))).all())
    nasopt.recalibrate(model.use((8, 8)), [x])
    assert torch.allclose(norm.running_var, own[0], rtol=1e-3)


def test_hooks_on_layers_with_widths_to_choose_fire() -> None:
    model = made()
    seen: list[str] = []
    model.model.net.get_submodule("3").register_forward_hook(lambda *_: seen.append("layer"))
    model.model.net.get_submodule("4").register_forward_pre_hook(lambda *_: seen.append("norm"))
    model(batch()[0])
    assert seen == ["layer", "norm"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"switches": []}, r"at least two switches, each once; got "),
        ({"switches": [(8, 8), (8, 8)]}, r"each once; got 8/8, 8/8"),
        ({"switches": [(8, 4), (4, 8)]}, r"none of the switches 8/4, 4/8 is the largest in every respect"),
        ({"switches": [(8, 8), (3, 8)]}, r"switch 3/8: weights of '3' have 2, 4, 8 bits, not 3"),
        ({"switches": [(8, 8), (4, 2)]}, r"switch 4/2: activations of .* have 4, 8 bits, not 2"),
        ({"switches": [(8, 8), (4, 8, 0.5)]}, r"no masks for fewer channels"),
        ({"switches": [(8, 8), (4, 8, 0.0)]}, r"channels is a share in \(0, 1\], got 0.0"),
        ({"switches": [(8, 8), "4"]}, r"a switch is a nasopt.Switch, a width, or .*; got '4'"),
        ({"switches": [(8, 8), Switch({"fc": 4})]}, r"weights names 'fc', which the model does not have"),
        ({"norms": "none"}, r"norms must be 'private' or 'shared'"),
        ({"features": -1.0}, r"features is a weight >= 0"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**options)


def test_models_that_do_not_switch() -> None:
    with pytest.raises(ConfigError, match=r"the model has no precision"):
        Switchable(PIT(seed(), (1, 8, 8)), SWITCHES)
    model = MixedPrecision(seed(), (1, 8, 8), precision=BOTH, regularizer=Budget(flash=2000))
    with pytest.raises(ConfigError, match=r"a Budget would decide other widths"):
        Switchable(model, SWITCHES)
    with pytest.raises(ConfigError, match=r"no activations of the model have 4 bits"):
        made(precision=Precision(weights=(2, 8)), switches=[(8, 8), (2, 4)])
    with pytest.raises(ConfigError, match=r"4/8 is no switch of this model"):
        made().use((4, 8))
    scalar = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 4), Last())
    answers_numbers = Switchable(MixedPrecision(scalar, (1, 8, 8), precision=BOTH), SWITCHES).train()
    with pytest.raises(ConfigError, match=r"outputs are no logits"):
        answers_numbers.backward(*batch(), lambda a, b: (a - b).square().mean())
    with pytest.raises(ConfigError, match=r"shared norms hold the statistics of all switches"):
        made(norms="shared").export()


class Last(nn.Module):
    """One number per sample."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))
