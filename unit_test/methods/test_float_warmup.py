"""The warm-up in floats of quantised networks: what rounds when, whose steps are set anew, what a checkpoint holds."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasopt import PIT, Budget, MixedPrecision, PhaseSchedule, Precision, SuperNet, restore
from nasopt.errors import ConfigError, ExportError
from nasopt.nn.quantised import QuantisedWeight
from nasopt.search.allocate import allocate_bits
from unit_test.methods.phase_toys import METHODS, SHAPE, alternatives, batch, convnet
from unit_test.methods.test_phases import train


def steps(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith("log_steps")}


def fitted(model: nn.Module) -> dict[str, Tensor]:
    """Steps of weights as they would be fitted now."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, QuantisedWeight):
            layer.fit_steps()
    return {name: value for name, value in steps(model).items() if name.endswith("weight_log_steps")}


def test_a_warm_up_computes_as_the_seed_and_trains_no_steps() -> None:
    seed = convnet()
    model = PIT(seed, SHAPE, precision=4)
    model.calibrate([batch()[0]])
    model.quantise(False)
    x, _ = batch()
    for mode in (True, False):
        ours, theirs = model.train(mode)(x), seed.train(mode)(x)
        torch.testing.assert_close(ours, theirs)
    ours.sum().backward()
    assert all(p.grad is None for n, p in model.named_parameters() if n.endswith("log_steps"))
    assert not model.is_quantised
    with pytest.raises(ExportError, match=r"computes in floats for now.* model.quantise\(\)"):
        model.arch_export()
    with pytest.raises(ConfigError, match=r"calibrate: the model computes in floats for now"):
        model.calibrate([x])
    model.quantise()
    assert not torch.equal(model.train()(x), seed.train()(x))


def test_steps_are_fitted_where_a_warm_up_has_trained() -> None:
    model = METHODS["pit_widths"]()
    x, _ = batch()
    model.calibrate([x])
    before = steps(model)
    model.quantise(False)
    model.eval()(x)
    model.quantise()  # nothing has been trained in between
    assert all(torch.equal(value, before[name]) for name, value in steps(model).items())
    model.eval()(x)
    phases = PhaseSchedule(model, warmup=1, search=2, strength=1.0)
    train(model, phases, torch.optim.SGD(model.parameters(), 0.5))
    after, wanted = steps(model), fitted(model)
    assert all(torch.equal(after[name], value) for name, value in wanted.items())
    assert any(not torch.equal(value, before[name]) for name, value in wanted.items())
    with pytest.raises(ConfigError, match="are not set"):
        model.eval()(x)
    model.train()(x)
    model.eval()(x)


def test_temperatures_of_widths_fall_over_the_search() -> None:
    def temperatures(model: Any, **lengths: int) -> list[float]:
        phases, seen = PhaseSchedule(model, strength=1.0, **lengths), []
        for _ in range(phases.epochs):
            seen.append(round(float(model.temperatures[-1]), 4))
            phases.step()
        return seen

    falling = [1.0, 1.0, 0.3162, 0.1, 0.1]
    assert temperatures(METHODS["pit_widths"](), warmup=1, search=3, finetune=1) == falling
    assert temperatures(METHODS["pit_widths"](), search=1) == [1.0]
    # Branches keep theirs, the last choices are those between widths; a temperature that was given stays.
    widths = Precision((2, 4), first_last=None)
    model = SuperNet(alternatives(), SHAPE, precision=widths)
    branches = float(model.temperatures[0])
    assert temperatures(model, search=2) == [1.0, 0.1]
    assert float(model.temperatures[0]) == branches
    assert temperatures(SuperNet(alternatives(), SHAPE, precision=widths, temperature=2.0), search=2) == [2.0, 2.0]
    with pytest.raises(ConfigError, match="temperature"):
        model.set_width_temperature(0)


@pytest.mark.parametrize("model_first", [True, False])
@pytest.mark.parametrize("epochs", [0, 1, 2, 4])
def test_a_checkpoint_says_whether_it_was_taken_in_floats(epochs: int, model_first: bool) -> None:
    def start() -> Any:
        model = METHODS["pit_widths"]()
        return model, PhaseSchedule(model, warmup=2, search=2, finetune=1, strength=1.0)

    (model, phases), (other, resumed) = start(), start()
    optimizer = torch.optim.SGD(model.param_groups(lr=0.1, arch_lr=0.1))
    for _ in range(epochs):
        train(model, phases, optimizer)
    pairs = [(other, model), (resumed, phases)]
    for new, old in pairs if model_first else reversed(pairs):
        new.load_state_dict(copy.deepcopy(old.state_dict()))
    assert other.is_quantised == model.is_quantised == (epochs >= 2)
    own = other.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in model.state_dict().items())
    for one, its in ((model, phases), (other, resumed)):
        for _ in range(3):
            train(one, its, torch.optim.SGD(one.param_groups(lr=0.1, arch_lr=0.1)))
    own = other.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in model.state_dict().items())


def test_a_copy_stays_in_floats_and_a_seed_loads() -> None:
    model = MixedPrecision(convnet(), SHAPE, precision=2)
    model.quantise(False)
    twin, other = copy.deepcopy(model), convnet()
    twin.load_state_dict(other.state_dict())
    x, _ = batch()
    torch.testing.assert_close(twin.eval()(x), other.eval()(x))
    twin.quantise()
    wanted = fitted(twin)
    assert all(torch.equal(value, wanted[name]) for name, value in steps(twin).items() if name in wanted)
    state = MixedPrecision(other, SHAPE, precision=2).state_dict()
    model.load_state_dict(state)
    assert model.is_quantised


def test_a_teacher_is_compared_before_steps_are_set() -> None:
    model, teacher = METHODS["pit_widths"](), convnet()
    phases = PhaseSchedule(model, search=1, strength=1.0, teacher=teacher)
    x, _ = batch()
    phases.get_teacher_loss(model.train()(x), x).backward()
    assert next(model.net_parameters()).grad is not None


def test_what_has_no_warm_up() -> None:
    with pytest.raises(ConfigError, match="quantise: nothing is quantised"):
        PIT(convnet(), SHAPE).quantise()
    model = METHODS["pit_widths"]()
    with pytest.raises(ConfigError, match="quantise: enabled must be"):
        model.quantise(1)  # type: ignore[arg-type]
    model.quantise(False)
    with pytest.raises(ConfigError, match=r"allocate_bits: .* in floats"):
        allocate_bits(model, [batch()], Budget(average_bits=4))


def test_a_network_that_was_warmed_up_equals_its_integers() -> None:
    model = METHODS["pit_widths"]().double()
    phases = PhaseSchedule(model, warmup=1, search=2, finetune=1, strength=1.0)
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-2, arch_lr=1e-1))
    for _ in range(4):
        torch.manual_seed(phases.epoch)
        x, y = batch()
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model.train()(x.double()), y) + phases.get_regularization_loss()).backward()
        optimizer.step()
        phases.step()
    found = model.arch_export().eval()
    rebuilt = restore(convnet().double(), model.arch_structure())
    rebuilt.load_state_dict(found.state_dict())
    assert torch.equal(rebuilt.eval()(x.double()), found(x.double()))
    assert all(getattr(layer, "is_rounding", True) for layer in found.modules())
