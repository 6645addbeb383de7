"""Searches over widths, and what `precision=` refuses."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nasopt
from nasopt import NASB, PIT, Budget, MixedPrecision, PITSuperNet, Precision, SuperNet, SuperNetModule, restore
from nasopt.errors import ConfigError, ExportError, RangeWarning, TraceError
from nasopt.export.integer import integer_program
from nasopt.search.settle import widen


def seed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


SHAPE = (3, 10, 10)


def batch(count: int = 4) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))


def widths(**settings: Any) -> Precision:
    return Precision(**{"weights": (2, 4, 8), "activations": (4, 8), **settings})


def test_costs_are_those_of_the_integers() -> None:
    model = MixedPrecision(seed(), SHAPE, precision=Precision(weights=4, activations=8))
    weights = {"0": 3 * 9 * 8, "3": 8 * 9 * 8, "6": 48, "9": 24}
    channels = 8 + 8 + 6 + 4
    bits = 8 * weights["0"] + 4 * weights["3"] + 4 * weights["6"] + 8 * weights["9"]  # first and last at 8
    assert model.get_cost("size_bits", discrete=True) == bits + 32 * channels
    assert model.get_cost("flash", discrete=True) == bits // 8 + 9 * channels
    assert model.get_cost("average_bits", discrete=True) == pytest.approx(bits / sum(weights.values()))
    macs = 100 * (8 * weights["0"] + 4 * (weights["3"] + weights["6"])) + 8 * weights["9"]
    assert model.get_cost("bit_ops", discrete=True) == 8 * macs
    # 4 bits halve the largest pair of neighbours: 8 channels each.
    narrow = MixedPrecision(seed(), SHAPE, precision=Precision(weights=4, activations=4, inputs=8))
    assert (model.get_cost("memory", discrete=True), narrow.get_cost("memory", discrete=True)) == (1600, 800)


def test_norms_of_their_own_are_no_weights() -> None:
    """A norm that no layer absorbs is stored, but its scale and shift are not what widths are chosen for."""
    first = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    net = nn.Sequential(*first, nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    model = MixedPrecision(net, SHAPE, precision=Precision(weights=4, activations=8, first_last=None))
    assert model.get_cost("average_bits", discrete=True) == 4


def test_expected_costs_are_means_over_widths() -> None:
    model = MixedPrecision(seed(), SHAPE, precision=widths(first_last=None))
    with torch.no_grad():
        model.choice_logits.zero_()
    weights = 3 * 9 * 8 + 8 * 9 * 8 + 48 + 24
    assert float(model.get_cost("size_bits").detach()) == pytest.approx(weights * (2 + 4 + 8) / 3 + 32 * 26)


@pytest.mark.parametrize(
    ("limits", "front"),
    [
        ({"flash": 700}, MixedPrecision),
        ({"average_bits": 4.5}, MixedPrecision),
        ({"memory": 900}, MixedPrecision),
        ({"flash": 420, "memory": 900}, PIT),
        ({"average_bits": 5, "size": 600}, PIT),
    ],
)
def test_budgets_are_kept(limits: dict[str, float], front: Any) -> None:
    torch.manual_seed(0)
    model = front(seed(), SHAPE, precision=widths(), regularizer=Budget(limits))
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-3, arch_lr=5e-2))
    for _ in range(4):
        optimizer.zero_grad()
        (model(batch()).square().mean() + model.get_regularization_loss()).backward()
        optimizer.step()
    model.settle_budget()
    assert all(model.get_cost(metric, discrete=True) <= limit for metric, limit in limits.items())
    found = model.arch_export()
    # Sums of fewer channels are of another order.
    assert torch.allclose(found.eval()(batch()), model.eval()(batch()), atol=1e-6)


def test_what_limits_leave_over_goes_to_wider_widths() -> None:
    costs = (2, 4, 8)
    scores = {"a": [0.0, -1.0, -2.0], "b": [0.0, -0.1, -5.0], "c": [0.0, -9.0, -9.5]}

    def use(found: Any) -> float:
        return sum(costs[found[name][0]] for name in "abc") / 12

    # b to 4 bits (it costs least score), then a, then both to 8 do not fit, nor does c to 4.
    assert widen({"a": (0,), "b": (0,), "c": (0,)}, scores, "abc", use) == {"a": (1,), "b": (1,), "c": (1,)}
    assert widen({"a": (0,), "b": (1,), "c": (0,)}, scores, "a", use) == {"a": (1,), "b": (1,), "c": (0,)}


def test_a_structure_brings_widths_back() -> None:
    model = MixedPrecision(seed(), SHAPE, precision=widths())
    with torch.no_grad():
        model.choice_logits.copy_(torch.randn_like(model.choice_logits))
    model.calibrate([batch()])
    found = model.arch_export()
    network = restore(seed(), model.arch_structure())
    network.load_state_dict(found.state_dict())
    assert torch.equal(network.eval()(batch()), found.eval()(batch()))
    layers = model.arch_summary()["layers"]
    assert {name: found.get_submodule(name).bits for name in layers} == {
        name: layer["weight_bits"] for name, layer in layers.items()
    }
    structure = model.arch_structure()
    damaged = copy.deepcopy(dict(structure))
    damaged.pop("sha256", None)
    damaged["precision"] = {"weights": 3}
    with pytest.raises(ConfigError, match=r"damaged structure, precision"):
        restore(seed(), damaged)


def test_the_seed_loads_and_steps_follow() -> None:
    model, other = MixedPrecision(seed(), SHAPE, precision=8), seed()
    model.calibrate([batch()])
    model.load_state_dict(other.state_dict())
    wanted = MixedPrecision(other, SHAPE, precision=8)
    for name, layer in model.net.named_modules():
        if hasattr(layer, "weight_log_steps"):
            assert torch.equal(layer.weight_log_steps, wanted.net.get_submodule(name).weight_log_steps)
    with pytest.raises(ConfigError, match=r"steps of 5 activations .* are not set"):
        model.eval()(batch())


def test_steps_that_a_state_dict_does_not_set_are_missed() -> None:
    model = MixedPrecision(seed(), SHAPE, precision=8)
    before = copy.deepcopy(model.state_dict())
    model.calibrate([batch()])
    model.eval()(batch())
    model.load_state_dict(before)
    with pytest.raises(ConfigError, match=r"steps of 5 activations .* are not set"):
        model(batch())


@pytest.mark.parametrize(
    ("front", "settings"),
    [
        (PIT, {"sampling": "hard"}),
        (MixedPrecision, {"weights": (4, 8), "quantizer": "minmax"}),
        (MixedPrecision, {"weights": (1, 2, 4), "quantizer": "apsq"}),
        (MixedPrecision, {"weights": 2, "quantizer": "apsq", "first_last": None}),
        (PIT, {"activation_quantizer": "pact"}),
        (PIT, {"share_steps_at": ("add", "mul", "average")}),
        (PIT, {"weights": 1, "activations": 1, "first_last": None}),
    ],
)
def test_every_option_ends_in_the_same_integers(front: Any, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = front(seed(), SHAPE, precision=widths(**settings), regularizer="size_bits")
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-2, arch_lr=1e-1))
    for _ in range(3):
        optimizer.zero_grad()
        (model(batch()).square().mean() + 1e-4 * model.get_regularization_loss()).backward()
        optimizer.step()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad and p.numel())
    found = model.arch_export().eval()
    assert torch.equal(found(batch()), model.eval()(batch()))
    exact = copy.deepcopy(found).double()(batch().double()).detach()
    # The output is not rounded, so it differs by the rounding of doubles at most.
    assert torch.allclose(torch.as_tensor(integer_program(found)(batch().double().numpy())), exact, rtol=0, atol=1e-12)


def test_what_has_no_integers_is_trained_and_refused(tmp_path: Path) -> None:
    model = MixedPrecision(seed(), SHAPE, precision=Precision(weights=(2, 4), quantizer="dorefa"))
    model(batch()).square().mean().backward()
    assert all(bool(p.grad.abs().sum() > 0) for name, p in model.named_parameters() if name.endswith("3.weight"))
    found = model.arch_export().eval()
    assert torch.equal(found(batch()), model.eval()(batch()))
    network = restore(seed(), model.arch_structure())
    network.load_state_dict(found.state_dict())
    assert torch.equal(network.eval()(batch()), found(batch()))
    for export in (
        lambda: integer_program(found),
        lambda: nasopt.export.to_quantised_onnx(found, tmp_path / "x.onnx"),
        lambda: nasopt.export.to_c(found, tmp_path),
    ):
        with pytest.raises(ExportError, match=r'layer .*: quantizer="dorefa" has no integer form: its levels are odd'):
            export()
    assert not list(tmp_path.iterdir())


def test_exports_are_tried_when_wrapping(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise ExportError("it does not fit")

    monkeypatch.setattr(sys.modules["nasopt.search.model"], "build", fails)
    with pytest.raises(ExportError, match=r"PIT: the smallest network cannot be exported: it does not fit"):
        PIT(seed(), SHAPE, precision=8)
    model = PIT(seed(), SHAPE, precision=8, verify=False)
    with pytest.raises(ConfigError, match=r"are not set"):
        model.eval()(batch())


def test_an_export_that_fails_is_named_when_wrapping(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails(nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            return input / (3 // int(input.numel() == 0))

    monkeypatch.setattr(sys.modules["nasopt.search.model"], "build", lambda *_: Fails())
    with pytest.raises(ExportError, match=r"a network of random channels, .*it fails with ZeroDivisionError"):
        PIT(seed(), SHAPE)


def test_steps_have_no_weight_decay() -> None:
    model = MixedPrecision(seed(), SHAPE, precision=8)
    net, _, steps = model.param_groups(lr=1e-3, arch_lr=1e-2, weight_decay=0.1)
    assert (net["weight_decay"], steps["weight_decay"]) == (0.1, 0.0)
    assert {id(p) for p in steps["params"]} == {id(p) for n, p in model.named_parameters() if "log_steps" in n}


class OneWeight(nn.Module):
    """Two convolutions with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.conv = nn.Parameter(torch.randn(4, 4, 1, 1)), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(nn.functional.conv2d(self.conv(x), self.kernel), self.kernel)


def test_explain_tells_what_stays_in_floats() -> None:
    text = str(MixedPrecision(OneWeight(), SHAPE, precision=8).explain())
    assert "in floats: conv2d: its weight, or its bias, is used elsewhere, too, or made of the input" in text
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(1, 4), nn.Conv2d(4, 2, 1))
    text = str(MixedPrecision(net, SHAPE, precision=8).explain())
    assert "in floats: 1: GroupNorm has no integer form" in text
    assert "tensor class input: 8 bits, signed" in text


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        (3.5, r"precision must be a nasopt.Precision, or a width in bits, got 3.5"),
        ("int8", "precision .int8.: give bits like 8"),
        (True, r"precision must be a nasopt.Precision"),
        (9, r"no quantizer has 9 bits. Widths are 1, 2"),
    ],
)
def test_no_precision(precision: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MixedPrecision(seed(), SHAPE, precision=precision)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": (4, 4)}, r"weights: \(4, 4\) must name at least one width, each once"),
        ({"weights": {}}, r"weights: an empty mapping"),
        ({"weights": {"0": 4, "*": 8.0}}, r"weights\['\*'\]: widths are ints"),
        ({"activations": 9}, r"activations: no quantizer has 9 bits"),
        ({"first_last": 0}, r"first_last: no quantizer has 0 bits"),
        ({"inputs": None}, r"inputs: widths are ints"),
        ({"quantizer": "lsk"}, r"quantizer: unknown 'lsk': known are lsq, minmax, apsq, dorefa"),
        ({"quantizer": "pact"}, r"quantizer: unknown 'pact'"),
        ({"activation_quantizer": "minmax"}, r"activation_quantizer: unknown 'minmax': known are lsq, pact"),
        ({"sampling": "gumbel"}, r"sampling: unknown 'gumbel'"),
        ({"share_steps_at": "add"}, r"share_steps_at must be a"),
    ],
)
def test_no_precision_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Precision(**settings)


def test_names_that_match_nothing() -> None:
    with pytest.raises(ConfigError, match=r"weights: 'stem' matches nothing. Known are 0, 3"):
        MixedPrecision(seed(), SHAPE, precision=Precision(weights={"stem": 4, "*": 8}))
    with pytest.raises(ConfigError, match=r"activations: 'y' matches nothing"):
        MixedPrecision(seed(), SHAPE, precision=Precision(activations={"y": 4, "*": 8}))


def test_what_is_refused() -> None:
    for quantizer in ("minmax", "apsq", "dorefa"):
        with pytest.raises(ConfigError, match=f'"{quantizer}" takes its levels from the weights'):
            PIT(seed(), SHAPE, precision=Precision(weights=8, quantizer=quantizer))  # type: ignore[arg-type]
    model = MixedPrecision(seed(), SHAPE, precision=8)
    with pytest.raises(ExportError, match=r"call model.calibrate\(batches\)"):
        model.arch_export()
    with pytest.raises(ConfigError, match=r"calibrate: there is no batch"):
        model.calibrate([])
    with pytest.raises(ConfigError, match=r"not finite"):
        model.calibrate([batch() * float("inf")])
    with pytest.raises(ConfigError, match=r"calibrate: nothing is quantised"):
        PIT(seed(), SHAPE).calibrate([batch()])
    with pytest.raises(ConfigError, match=r"PIT does not choose between branches|is a SuperNetModule"):
        PIT(
            nn.Sequential(SuperNetModule([nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)])),
            SHAPE,
            precision=widths(),
        )
    model.calibrate([batch()])
    with pytest.raises(ConfigError, match=r"quantised layers already"):
        MixedPrecision(model.arch_export(), SHAPE, precision=4)
    with pytest.raises(ConfigError, match=r"NASB.*precision"):
        NASB(seed(), SHAPE, precision=8)


@pytest.mark.parametrize("value", [-200.0, 200.0, float("nan")])
def test_steps_that_hold_no_numbers_are_named(value: float) -> None:
    model = MixedPrecision(seed(), SHAPE, precision=8)
    model.calibrate([batch()])
    weights, points = model.net.get_submodule("6"), model.net.get_submodule("points")
    with torch.no_grad():
        weights.log2_steps[0, 2] = value
    with pytest.raises(ExportError, match=r"layer '6', channel 2: its step is 2\^(-?200|nan), which holds no numbers"):
        model.arch_export()
    weights.fit_steps()
    with torch.no_grad():
        points["3"].log2_steps[0] = value
    with pytest.raises(ExportError, match=r"activation 'points.3': its step .*model.calibrate\(batches\)"):
        model.arch_export()
    model.calibrate([batch()])
    model.arch_export()


@pytest.mark.parametrize("scale", [255.0, 1 / 255])
def test_data_of_another_range_is_told(scale: float) -> None:
    model = MixedPrecision(seed(), SHAPE, precision=8)
    model.calibrate([batch()])
    model.calibrate([batch() * 2, torch.zeros(1, *SHAPE)])
    program = integer_program(model.arch_export())
    program(batch().numpy() * 3)
    program(batch().numpy() * 0)
    with pytest.warns(RangeWarning, match=r"its grid goes from -.* scaled alike"):
        program(batch().numpy() * scale)
    with pytest.warns(RangeWarning, match=r"calibrate: the step of input 'input' was .* scaled alike"):
        model.calibrate([batch() * scale])


def test_autocast_keeps_grids() -> None:
    model = MixedPrecision(seed(), SHAPE, precision=8)
    model.calibrate([batch()])
    with torch.autocast("cpu", torch.bfloat16):
        model.train()(batch()).float().square().mean().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.net_parameters() if p.grad is not None)


def alternatives() -> nn.Module:
    branches = [nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())]
    return nn.Sequential(SuperNetModule(branches), nn.Flatten(), nn.Linear(400, 4))


@pytest.mark.parametrize("front", [MixedPrecision, PIT, SuperNet, PITSuperNet])
@pytest.mark.parametrize("precision", [8, (2, 4)])
def test_without_rounding_the_model_is_its_seed(front: Any, precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make = alternatives if front in (SuperNet, PITSuperNet) else seed
    front(make(), SHAPE, precision=precision)
    quantise = sys.modules["nasopt.search.model"].quantise_network  # type: ignore[attr-defined]

    def wrong(net: Any, widths: Any) -> Any:
        found = quantise(net, widths)
        first = next(layer for layer in net.modules() if hasattr(layer, "weight_log_steps"))
        first.weight.data[0] += 1.0
        return found

    monkeypatch.setattr(sys.modules["nasopt.search.model"], "quantise_network", wrong)
    with pytest.raises(TraceError, match=r"the search model of Sequential is not its seed in eval mode"):
        front(make(), SHAPE, precision=precision)


@pytest.mark.parametrize("precision", [8, Precision(weights=(2, 4, 8), activations=(4, 8))])
def test_a_shrunk_model_computes_and_costs_the_same(precision: Any) -> None:
    torch.manual_seed(0)
    x = batch().double()
    model = PIT(seed(), SHAPE, precision=precision, regularizer="size_bits").double()
    model.calibrate([x])
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-3, arch_lr=1e-2))

    def step() -> None:
        optimizer.zero_grad()
        (model.train()(x).square().mean() + 1e-4 * model.get_regularization_loss()).backward()
        optimizer.step()

    step()
    with torch.no_grad():
        model.alpha.copy_(torch.rand_like(model.alpha))
    metrics = ("size_bits", "flash", "memory", "average_bits")
    before, costs = model.eval()(x), {metric: model.get_cost(metric, discrete=True) for metric in metrics}
    structure = model.arch_structure()
    assert model.shrink(optimizer)["channels"]
    assert torch.allclose(model(x), before, rtol=0, atol=1e-12)
    assert costs == {metric: model.get_cost(metric, discrete=True) for metric in metrics}
    assert structure == model.arch_structure()
    step()
    fresh = PIT(seed(), SHAPE, precision=precision, regularizer="size_bits").double()
    fresh.load_state_dict(model.state_dict())
    found = restore(seed(), model.arch_structure()).double().eval()
    found.load_state_dict(model.arch_export().state_dict())
    assert torch.allclose(found(x), fresh.eval()(x), rtol=0, atol=1e-12)
    assert torch.equal(fresh(x), model.eval()(x))
    integer_program(found)


class WrittenOver(nn.Module):
    """A tensor that is read by its first name after operations in place have changed it, through a layer and a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).clone()
        y.mul_(2.0).add_(0.5)
        self.act(y)
        z = y * 3
        torch.sigmoid_(y)
        return self.second(z + y)


def test_what_is_written_over_is_read_as_it_is_then() -> None:
    seed, x = WrittenOver().eval(), torch.randn(2, 3, 4, 4)
    MixedPrecision(
        seed, (3, 4, 4), precision=Precision(weights=(4, 8), activations=(4, 8))
    )  # compared without rounding
    model = MixedPrecision(seed, (3, 4, 4), precision=8).eval()
    model.calibrate([x])
    torch.testing.assert_close(model(x), seed(x), rtol=0.1, atol=0.1)


def test_a_loader_may_have_any_attributes() -> None:
    class Loader:
        dim = 3

        def __iter__(self) -> Any:
            return iter([torch.randn(2, 3, 6, 6)])

    model = MixedPrecision(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2)), (3, 6, 6), precision=8)
    model.calibrate(Loader())
    assert model.is_calibrated
