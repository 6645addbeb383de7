"""Widths per channel: what they cost, how budgets settle them, and that every way out holds them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasopt import PIT, Budget, MixedPrecision, Precision, allocate_bits, restore
from nasopt.cost import network_calls, network_cost
from nasopt.errors import ConfigError
from nasopt.export import integer_program, to_c, to_quantised_onnx

SHAPE = (3, 8, 8)
WIDTHS = (1, 2, 4, 8)


def seed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1),
        nn.Flatten(),
        nn.Linear(384, 4),
    )


X = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))


def searched(front: Any = MixedPrecision, number: int = 0, **settings: Any) -> Any:
    torch.manual_seed(number)
    chosen = {"weights": WIDTHS, "activations": 8, "first_last": None, "granularity": "channel", **settings}
    regularizer = chosen.pop("regularizer", "size_bits")
    model = front(seed(), SHAPE, precision=Precision(**chosen), regularizer=regularizer)
    model.calibrate([X])
    with torch.no_grad():
        for name, parameter in model.named_arch_parameters():
            parameter.copy_(
                torch.randn_like(parameter) if name == "choice_logits" else torch.rand_like(parameter) * 1.3
            )
    return model


METRICS = ("size_bits", "flash", "average_bits", "bit_ops", "macs", "size", "memory", "flash:max78000")


@pytest.mark.parametrize("front", [MixedPrecision, PIT])
def test_the_decided_cost_is_that_of_the_export_which_computes_the_same(front: Any) -> None:
    for number in range(2):
        model = searched(front, number).double().eval()
        found = model.arch_export().eval()
        calls = network_calls(found, SHAPE)
        assert {m: model.get_cost(m, discrete=True) for m in METRICS} == {m: calls.total(m) for m in METRICS}
        assert torch.allclose(found(X.double()), model(X.double()), rtol=0, atol=1e-12)
        again = restore(seed(), json.loads(json.dumps(model.arch_structure()))).double().eval()
        again.load_state_dict(found.state_dict())
        assert torch.equal(again(X.double()), found(X.double()))


def test_latency_is_that_of_one_call_per_width() -> None:
    model = searched(weights=(2, 4, 8), regularizer="latency:gap9_ne16")
    found = model.arch_export()
    assert model.get_cost("latency:gap9_ne16", discrete=True) == network_cost(found, "latency:gap9_ne16", SHAPE)
    with torch.no_grad():
        model.choice_logits.zero_()  # all channels of the narrowest width, so one call
    layers = MixedPrecision(seed(), SHAPE, precision=Precision(weights=2, activations=8, first_last=None))
    assert model.get_cost("latency:gap9_ne16", discrete=True) == layers.get_cost("latency:gap9_ne16", discrete=True)


def test_the_expected_number_of_channels_of_a_width_is_a_sum_of_probabilities() -> None:
    model = searched()
    with torch.no_grad():
        model.choice_logits.zero_()
        first, _ = model._prepared.decisions.price.choices["0.width"]
        model.choice_logits[first + 1] = 20.0  # channel 0 has 2 bits
    model.train()
    model(X)
    weights = {"0": 27, "3": 9, "6": 8, "8": 384}
    mean = sum(WIDTHS) / 4
    channels = {"0": 8, "3": 8, "6": 6, "8": 4}
    bits = sum(mean * weights[name] * channels[name] for name in weights) + (2 - mean) * 27 + 32 * 26
    cost = model.get_cost("size_bits")
    assert cost.item() == pytest.approx(bits)
    (slope,) = torch.autograd.grad(cost, model.choice_logits)
    row = slope[first + 4 : first + 8]  # of channel 1: p (b - mean) in bits of its weights
    assert row.tolist() == pytest.approx([27 * (b - mean) / 4 for b in WIDTHS], rel=1e-5)


@pytest.mark.parametrize("bits", WIDTHS)
def test_channels_of_one_width_are_a_layer_of_it(bits: int) -> None:
    model = searched()
    with torch.no_grad():
        model.choice_logits.zero_()
        model.choice_logits[WIDTHS.index(bits) :: len(WIDTHS)] = 1.0
    layers = MixedPrecision(seed(), SHAPE, precision=Precision(weights=bits, activations=8, first_last=None))
    skipped = ("log_steps", "choice_logits", "temperatures")
    state = {k: v for k, v in model.state_dict().items() if not any(word in k for word in skipped)}
    layers.load_state_dict(state, strict=False)
    for name, point in layers.net.named_modules():
        if hasattr(point, "log_steps"):
            point.load_state_dict(model.net.get_submodule(name).state_dict())
        if hasattr(point, "weight_log_steps"):
            steps = model.net.get_submodule(name).weight_log_steps[[WIDTHS.index(bits)]]
            point.weight_log_steps.data.copy_(steps.detach())
    assert torch.equal(model.eval()(X), layers.eval()(X))
    assert torch.equal(model.arch_export().eval()(X), layers(X))
    assert all(getattr(m, "channel_bits", None) is None for m in model.arch_export().modules())


@pytest.mark.parametrize(
    ("front", "limits"),
    [
        (MixedPrecision, {"size_bits": 4_000}),
        (MixedPrecision, {"average_bits": 2.7}),
        (PIT, {"flash": 500}),
        (PIT, {"average_bits": 3.3, "flash": 700}),
    ],
)
def test_budgets_are_kept_and_used(front: Any, limits: dict[str, float]) -> None:
    model = searched(front, regularizer=Budget(limits))
    model.settle_budget()
    used = [model.get_cost(metric, discrete=True) / limit for metric, limit in limits.items()]
    assert 0.95 < max(used) <= 1
    found = model.arch_export()
    assert network_cost(found, next(iter(limits)), SHAPE) == model.get_cost(next(iter(limits)), discrete=True)


def test_files_hold_every_channel_at_its_width(tmp_path: Path, c_compiler: str) -> None:
    onnx = pytest.importorskip("onnx")
    model = searched(PIT, 1)
    found = model.arch_export()
    program = integer_program(found)
    assert " 0 of " in to_c(program, tmp_path / "net").checked
    report = to_quantised_onnx(found, tmp_path / "net.onnx")
    assert any("of 1 bits stored as INT2" in note for note in report.notes)
    graph = onnx.load(tmp_path / "net.onnx").graph
    kinds = (onnx.TensorProto.INT2, onnx.TensorProto.INT4)
    stored = sum(len(one.raw_data) for one in graph.initializer if one.data_type in kinds)
    mixed: list[Any] = [layer for layer in found.modules() if getattr(layer, "channel_bits", None) is not None]
    narrow = [(layer.channel_bits.tolist(), layer.weight[0].numel()) for layer in mixed]
    wanted = sum({1: 2, 2: 2, 4: 4}.get(bits, 0) * count for widths, count in narrow for bits in widths) / 8
    assert wanted <= stored <= wanted + 4 * len(narrow)
    program.c_header(tmp_path / "net.h")
    assert "weight2" in (tmp_path / "net.h").read_text()


def test_training_moves_every_parameter_of_search_and_export() -> None:
    model = searched(PIT, sampling="hard")
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-3, arch_lr=1e-2))
    (model.train()(X).square().mean() + 1e-4 * model.get_regularization_loss()).backward()
    optimizer.step()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    found = model.arch_export().train()
    found(X).square().mean().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in found.parameters())


def test_widths_of_channels_that_are_off_leave_with_them() -> None:
    x = X.double()

    def step(model: Any) -> None:
        optimizer.zero_grad()
        (model.train()(x).square().mean() + 1e-4 * model.get_regularization_loss()).backward()
        optimizer.step()

    model = searched(PIT, 2).double()
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-3, arch_lr=1e-2))
    step(model)
    twin, before = copy.deepcopy(model), model.eval()(x)
    assert model.shrink(optimizer, share=1.0)["channels"]
    left = sum(layer.weight_log_steps.shape[1] for layer in model.net.modules() if hasattr(layer, "weight_log_steps"))
    assert left < 26
    assert len(model.choice_logits) == len(WIDTHS) * left
    assert optimizer.state[model.choice_logits]["exp_avg"].shape == model.choice_logits.shape
    assert torch.allclose(model.eval()(x), before, rtol=0, atol=1e-12)
    assert [model.get_cost(m, discrete=True) for m in METRICS] == [twin.get_cost(m, discrete=True) for m in METRICS]
    # A structure is about the seed: what it says of channels that are gone makes no difference.
    found, of_twin = (restore(seed(), one.arch_structure()).double().eval() for one in (model, twin))
    for network in (found, of_twin):
        network.load_state_dict(twin.arch_export().state_dict())
    assert torch.equal(found(x), of_twin(x))
    step(model)
    model.shrink(optimizer, share=1.0)
    fresh = searched(PIT, 3).double()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(x), model.eval()(x))
    assert fresh.arch_structure() == model.arch_structure()


@pytest.mark.parametrize("sensitivity", ["loss", "fisher", "cosine"])
def test_channels_are_assigned_one_by_one(sensitivity: Any) -> None:
    """No exchange between two channels of a layer, of one width for the other, lowers the sum of sensitivities."""
    model, budget = searched(number=4), Budget(size_bits=4_000)
    batches = [(X, torch.arange(4))]
    kept = copy.deepcopy(model.state_dict())
    widths = allocate_bits(model, batches, budget, sensitivity=sensitivity)
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    assert {name: len(bits) for name, bits in widths.items()} == {"0": 8, "3": 8, "6": 6, "8": 4}  # type: ignore[arg-type]
    layer, bits = model.net.get_submodule("0"), widths["0"]
    model.choose_widths(widths)
    assert 0.9 * 4_000 < model.get_cost("size_bits", discrete=True) <= 4_000
    assert model.arch_export().get_submodule("3").channel_bits.tolist() == list(widths["3"])  # type: ignore[arg-type]
    if sensitivity == "cosine":
        rows = layer.weight.detach().flatten(1)
        by_width = [layer.quantised_weight([(i, None)]).detach().flatten(1) for i in range(len(WIDTHS))]
        lost = torch.stack([1 - torch.cosine_similarity(rows, r).square() for r in by_width], 1)
        lost = lost.flip(1).cummax(1).values.flip(1)  # a narrower width is never better
        at = [WIDTHS.index(b) for b in bits]  # type: ignore[union-attr]
        swaps = [(i, j) for i in range(8) for j in range(8) if at[i] != at[j]]
        assert all(lost[i, at[j]] + lost[j, at[i]] >= lost[i, at[i]] + lost[j, at[j]] - 1e-9 for i, j in swaps)


def test_widths_that_a_layer_does_not_have() -> None:
    model = searched()
    model.choose_widths({"0": 2, "3": [1, 2, 4, 8] * 2})
    assert model.choice_summary()["0.width"]["channels"] == {2: 8}
    assert model.choice_summary()["3.width"]["channels"] == {1: 2, 2: 2, 4: 2, 8: 2}
    for wrong, message in (
        ({"1": 2}, r"no layer '1' with widths"),
        (
            {"0": 3},
            r"'0' was given 3, and its 8 channels may have 1, 2, 4, 8 bits: one number for all, or one for each",
        ),
        ({"0": [2] * 7}, r"'0' was given \[2, 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.choose_widths(wrong)


def test_an_exported_network_is_searched_on() -> None:
    found = searched().arch_export()
    model: Any = PIT(found, SHAPE, regularizer="flash").eval()
    assert torch.equal(model(X), found.eval()(X))
    with torch.no_grad():
        model.alpha.copy_(torch.rand_like(model.alpha))
    small = model.arch_export()
    assert model.get_cost("flash", discrete=True) == network_cost(small, "flash", SHAPE)
    assert torch.allclose(small.eval()(X), model(X), atol=1e-6)


def test_summaries_count_channels_by_width() -> None:
    model = searched(PIT)
    found = model.arch_export()
    for name, layer in model.arch_summary()["layers"].items():
        bits = found.get_submodule(name).channel_bits
        widths = layer["weight_bits"]
        assert widths == ({found.get_submodule(name).bits: layer["out_channels"]} if bits is None else _counted(bits))
    assert set(model.choice_summary()["0.width"]["channels"]) <= set(WIDTHS)
    assert "/" in str(model).split("QuantConv2d w")[1].split()[0]


def _counted(bits: Tensor) -> dict[int, int]:
    return {int(b): int(n) for b, n in zip(*bits.unique(return_counts=True))}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"granularity": "chanel"}, r"granularity: unknown 'chanel'.*Did you mean 'channel'"),
        (
            {"granularity": "channel", "quantizer": "minmax"},
            r"granularity=\"channel\" mixes the learned steps of \"lsq\"",
        ),
        ({"granularity": "channel", "weights": (8, 32)}, r"channels of one layer are stored in 1 to 8 bits, not in 32"),
        ({"granularity": "channel", "weights": {"*": (4, 16)}}, r"not in 16"),
    ],
)
def test_no_such_granularity(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Precision(**settings)


def test_what_is_refused() -> None:
    model = searched(PIT)
    structure = json.loads(json.dumps(model.arch_structure()))
    structure.pop("sha256")
    structure["choices"]["0.width"][1] = structure["choices"]["0.width"][0] + 1
    with pytest.raises(ConfigError, match=r"chooses branch .* of '0.width'"):
        restore(seed(), structure)
