"""What people get wrong, and the message with the cure that they get."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nasopt
from nasopt import PIT
from nasopt.cost import SIZE, Metric, register_metric
from nasopt.errors import (
    ArchitectureError,
    ConfigError,
    ExportError,
    NoEffectWarning,
    TraceError,
    UnknownOperationError,
)


def seed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 2)
    )


SHAPE = (3, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (3, 9, 9)}, r"Sequential.forward failed on the example input .*Check input_shape"),
        ({"input_shape": (1, 3, 8, 8)}, r"failed on the example input .*without the batch dimension"),
        ({"input_shape": (3, 8.0, 8)}, r"input_shape must hold positive ints.*\(3, 8.0, 8\)"),
        ({"input_shape": (3, 0, 8)}, r"input_shape must hold positive ints"),
        ({"input_shape": 3}, r"input_shape must be a tuple like \(3, 32, 32\), got 3"),
        ({"input_shape": "3x8x8"}, r"input_shape must hold positive ints.*got '3x8x8'"),
        ({}, r"give exactly one of input_shape .* and input_example"),
        ({"input_shape": SHAPE, "input_example": torch.zeros(2, *SHAPE)}, r"give exactly one"),
        ({"input_shape": (SHAPE, SHAPE)}, r"does not take the 2 given input\(s\).*tuple of shapes"),
        ({"input_example": "image"}, r"input_example holds no tensor"),
        ({"input_example": {"image": torch.zeros(2, *SHAPE)}}, r"does not take the 1 given input"),
        ({"input_example": torch.zeros(())}, r"no batch dimension"),
        ({"input_shape": SHAPE, "channel_block": 0}, r"channel_block must be an int >= 1, got 0"),
        ({"input_shape": SHAPE, "channel_block": -4}, r"channel_block must be an int >= 1, got -4"),
        ({"input_shape": SHAPE, "channel_block": 2.0}, r"channel_block must be an int >= 1, got 2.0"),
        ({"input_shape": SHAPE, "channel_block": True}, r"channel_block must be an int >= 1, got True"),
        (
            {"input_shape": SHAPE, "regularizer": "mac"},
            r"unknown metric 'mac': known are .*macs.*Did you mean 'macs'\?",
        ),
        ({"input_shape": SHAPE, "regularizer": 3}, r"unknown metric 3: known are .*nasopt.cost.Metric"),
        ({"input_shape": SHAPE, "regularizer": None}, r"unknown metric None"),
        ({"input_shape": SHAPE, "regularizer": {}}, r"regularizer is an empty dict"),
        ({"input_shape": SHAPE, "regularizer": {"size": -1}}, r"weight of 'size' must be a finite number >= 0, got -1"),
        ({"input_shape": SHAPE, "regularizer": {"size": float("nan")}}, r"must be a finite number"),
        ({"input_shape": SHAPE, "exclude_names": ["conv1"]}, r"exclude_names: 'conv1' matches no layer of Sequential"),
        ({"input_shape": SHAPE, "exclude_names": "9.*"}, r"exclude_names: '9.\*' matches no layer"),
        ({"input_shape": SHAPE, "exclude_types": [nn.LSTM]}, r"exclude_types: .*LSTM.* matches no layer"),
        ({"input_shape": SHAPE, "exclude_names": [3]}, r"exclude_names holds names, globs or nn.Module classes; got 3"),
        ({"input_shape": SHAPE, "exclude_names": 3}, r"exclude_names holds names, globs or nn.Module classes; got 3"),
        ({"input_shape": SHAPE, "leaf_modules": ["block"]}, r"leaf_modules: 'block' matches no module of Sequential"),
    ],
)
def test_arguments(arguments: dict[str, Any], message: str) -> None:
    model = seed()
    state, attributes = {k: v.clone() for k, v in model.state_dict().items()}, sorted(vars(model))
    with pytest.raises(ConfigError, match=message):
        PIT(model, **arguments)
    assert sorted(vars(model)) == attributes
    assert model.training
    assert all(torch.equal(model.state_dict()[key], state[key]) for key in state)


def test_nearest_layer_name_is_suggested() -> None:
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(3, 4, 1))
    model.add_module("head", nn.Conv2d(4, 4, 1))
    with pytest.raises(ConfigError, match=r"Did you mean 'conv'\?"):
        PIT(model, SHAPE, exclude_names=["conv1"])


def test_not_a_module() -> None:
    with pytest.raises(ConfigError, match=r"PIT wraps an nn.Module, got function"):
        PIT(lambda x: x, SHAPE)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"PIT wraps an nn.Module, got type"):
        PIT(nn.Linear, SHAPE)  # type: ignore[arg-type]


def test_two_wraps() -> None:
    """A search model is no seed; a seed may be wrapped as often as one likes, and an export again."""
    model = seed()
    first, second = PIT(model, SHAPE), PIT(model, SHAPE)
    with pytest.raises(
        ConfigError, match=r"PIT got a PIT, which is under search already: wrap the seed, or what .*arch_export"
    ):
        PIT(first, SHAPE)
    with torch.no_grad():
        first.alpha.zero_()
    assert first.get_cost("size", discrete=True) < second.get_cost("size", discrete=True)
    assert PIT(first.arch_export(), SHAPE).get_cost("size", discrete=True) == first.get_cost("size", discrete=True)


def test_a_search_model_inside_of_a_seed() -> None:
    with pytest.raises(ConfigError, match=r"under search"):
        PIT(nn.Sequential(PIT(seed(), SHAPE), nn.Linear(2, 3)), SHAPE)


def test_a_seed_without_values() -> None:
    with torch.device("meta"):
        seed = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1))
    with pytest.raises(ConfigError, match=r"PIT: '0.weight' in Sequential is on the meta device.*to_empty"):
        PIT(seed, (3, 8, 8))


def test_no_searchable_layer_warns() -> None:
    with pytest.warns(NoEffectWarning, match=r"no effect on this model.*explain\(\) tells why"):
        PIT(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), (4,))
    with pytest.warns(NoEffectWarning, match=r"no effect"):
        model = PIT(nn.Sequential(nn.ReLU()), (4,))
    assert torch.equal(model(torch.ones(1, 4)), torch.ones(1, 4))
    assert torch.equal(model.arch_export()(torch.ones(1, 4)), torch.ones(1, 4))


def test_little_effect_warns() -> None:
    layers = [nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3), nn.Softmax(1), nn.Linear(3, 100)]
    with pytest.warns(NoEffectWarning, match=r"only \d\.\d% of the weights"):
        PIT(nn.Sequential(*layers), (4,))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_architecture_that_is_no_number(bad: float) -> None:
    model = PIT(seed(), SHAPE)
    with torch.no_grad():
        model.alpha[1] = bad
    message = r"1 of 12 values of the architecture parameter 'alpha' are NaN or infinite.*Lower the learning rate"
    for read in (
        model.get_regularization_loss,
        model.get_size,
        model.arch_export,
        model.arch_summary,
        model.arch_structure,
        lambda: model.get_cost("macs", discrete=True),
        lambda: str(model),
        model.search_space,
    ):
        with pytest.raises(ArchitectureError, match=message):
            read()


def test_exported_network_has_no_regularizer() -> None:
    network = PIT(seed(), SHAPE).arch_export()
    with pytest.raises(ExportError, match=r"get_regularization_loss: .*its search is over. Leave the term out"):
        network.get_regularization_loss()  # type: ignore[operator]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_seed_in_another_precision(dtype: torch.dtype) -> None:
    """Wrapped as it is; the example that is made from input_shape has its dtype."""
    model = PIT(seed().to(dtype), SHAPE)
    network = model.eval().arch_export()
    assert network(torch.zeros(1, *SHAPE, dtype=dtype)).dtype == dtype
    model.get_regularization_loss().backward()
    assert bool((model.alpha.grad != 0).all())


def test_example_of_another_dtype_than_the_seed() -> None:
    with pytest.raises(ConfigError, match=r"failed on the example input.*(dtype|type)"):
        PIT(seed().half(), input_example=torch.zeros(2, *SHAPE))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if x.sum() > 0:
            x = -x
        return self.second(x)


def test_control_flow_on_data_names_the_line() -> None:
    import inspect

    lines, start = inspect.getsourcelines(Branching.forward)
    line = start + next(i for i, text in enumerate(lines) if "if x.sum()" in text)
    place = rf"test_bad_input\.py:{line} in forward: `if x.sum\(\) > 0:`"
    with pytest.raises(TraceError, match=place + r".*leaf_modules="):
        PIT(Branching(), SHAPE)


@pytest.mark.parametrize("leaf", ["1", "[1]", Branching])
def test_leaf_modules_are_the_cure(leaf: Any) -> None:
    around = nn.Sequential(nn.Conv2d(3, 3, 1), Branching(), nn.Conv2d(2, 5, 1), nn.Conv2d(5, 3, 1))
    model = PIT(around, SHAPE, leaf_modules=[leaf])
    assert [group.size for group in model.explain().groups if group.searchable] == [5]
    x = torch.randn(2, *SHAPE)
    torch.testing.assert_close(model(x), around(x))
    assert isinstance(model.arch_export().get_submodule("1"), Branching)


class Own(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x, x)


def test_strict_names_the_operation() -> None:
    model = nn.Sequential(nn.Linear(4, 6), Own(), nn.Linear(5, 4), nn.Linear(4, 2))
    with pytest.raises(UnknownOperationError, match=r"cdist.*\(2, 5, 6\).*@nasopt.layer_rule.*@nasopt.function_rule"):
        PIT(model, (5, 4), strict=True)
    relaxed = PIT(model, (5, 4))
    assert relaxed.explain().unknown == ["cdist"]
    assert relaxed.search_space()["unpriced"] == ["cdist"]


def test_two_rules_or_metrics_of_one_name() -> None:
    with pytest.raises(ConfigError, match=r"Conv2d has a rule already"):
        nasopt.layer_rule(nn.Conv2d)(lambda call: None)
    with pytest.raises(ConfigError, match=r"metric named 'size' exists already"):
        register_metric(Metric("size", "", False, SIZE.cost))


def test_structures_that_do_not_fit() -> None:
    model = PIT(seed(), SHAPE)
    with torch.no_grad():
        model.alpha[3:] = 0
    structure = json.loads(json.dumps(model.arch_structure()))
    with pytest.raises(ConfigError, match=r"its content is another one than 'sha256' says"):
        nasopt.restore(seed(), {**structure, "channels": {}})
    del structure["sha256"]
    with pytest.raises(ConfigError, match=r"not a structure that this version reads: format None"):
        nasopt.restore(seed(), {})
    with pytest.raises(ConfigError, match=r"version 99"):
        nasopt.restore(seed(), {**structure, "version": 99})
    with pytest.raises(ConfigError, match=re.escape("'conv', the seed has no channels there")):
        nasopt.restore(seed(), {**structure, "channels": {"conv": [0]}})
    with pytest.raises(ConfigError, match=r"keeps channels \[8\] of '0', the seed has 8 channels"):
        nasopt.restore(seed(), {**structure, "channels": {"0": [8]}})
    with pytest.raises(ConfigError, match=r"cuts the kernel of '1', which is no convolution"):
        nasopt.restore(seed(), {**structure, "kernels": {"1": [[0, 1, 1]]}})


def test_calls_that_do_not_fit() -> None:
    model = PIT(seed(), SHAPE)
    x = torch.zeros(1, *SHAPE)
    with pytest.raises(TypeError, match=r"takes 1 arguments \(input\), got 2"):
        model(x, x)
    with pytest.raises(TypeError, match=r"has no argument 'image': it has input"):
        model(image=x)
    with pytest.raises(TypeError, match=r"got argument 'input' twice"):
        model(x, input=x)
    with pytest.raises(TypeError, match=r"misses input"):
        model()
