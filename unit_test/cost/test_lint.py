"""What an int8 runtime cannot fold or fuse."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks_mlperf_tiny.networks import ds_cnn, mobilenet_v1, resnet8
from nasopt import PIT, MixedPrecision
from nasopt.cli import main
from nasopt.cost import lint
from nasopt.nn import AdderConv2d, BinaryConv2d, MultiHeadDepthwise, PAConv2d, ReafConv2d


class Net(nn.Module):
    """Two convolutions with a norm each, and a function that connects them."""

    def __init__(self, connect: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.second, self.norm2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.relu, self.pool, self.layer_norm = nn.ReLU(), nn.MaxPool2d(2), nn.GroupNorm(1, 4)
        self.weights = nn.Parameter(torch.ones(4, 4, 1, 1))
        self.connect = connect

    def forward(self, x: Tensor) -> Tensor:
        return self.connect(self, x)


def found(connect: Callable[[Net, Tensor], Tensor]) -> list[tuple[str, str]]:
    return [(one.layer, one.kind) for one in lint(Net(connect), (3, 4, 4)).findings]


FUSED: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "conv, norm, relu": lambda net, x: net.relu(net.norm1(net.first(x))),
    "functions": lambda net, x: F.relu6(net.norm1(net.first(x))),
    "residual": lambda net, x: F.relu(net.norm2(net.second(y := net.norm1(net.first(x)))) + y),
    "pool, relu": lambda net, x: net.relu(net.pool(net.norm1(net.first(x)))),
    "dropout between": lambda net, x: net.relu(F.dropout(net.norm1(net.first(x)), 0.1, net.training)),
    "shape": lambda net, x: net.first(x).view(x.shape[0], x.size(1) + 1, -1).mean(2),
}


@pytest.mark.parametrize("name", FUSED)
def test_what_is_fused_is_not_listed(name: str) -> None:
    assert found(FUSED[name]) == []


UNFUSED: dict[str, tuple[Callable[[Net, Tensor], Tensor], list[tuple[str, str]], str]] = {
    "pre-activation": (
        lambda net, x: net.second(net.relu(net.norm1(net.first(x) + net.first(x)))),
        [("norm1", "norm")],
        "it follows add, which has no weights",
    ),
    "norm behind cat": (
        lambda net, x: net.second(net.norm1(torch.cat([net.first(x)[:, :2], net.first(x)[:, :2]], 1))),
        [("norm1", "norm")],
        "it follows cat",
    ),
    "two readers of the convolution": (
        lambda net, x: net.norm1(y := net.first(x)) + net.second(y),
        [("norm1", "norm")],
        "Conv2d first before it is read elsewhere, too",
    ),
    "one convolution, two norms": (
        lambda net, x: net.norm1(net.first(x)) + net.norm2(net.first(x)),
        [("norm1", "norm"), ("norm2", "norm")],
        "called more than once",
    ),
    "relu behind cat": (
        lambda net, x: net.relu(torch.cat([net.first(x), net.first(x)], 1)),
        [("relu", "activation")],
        "it follows cat",
    ),
    "relu beside another reader": (
        lambda net, x: net.relu(y := net.first(x)) + y,
        [("relu", "activation")],
        "what Conv2d gives is read elsewhere, too",
    ),
    "two activations": (
        lambda net, x: F.relu6(net.relu(net.first(x))),
        [("relu6", "activation")],
        "it follows another activation, ReLU",
    ),
    "sigmoid": (lambda net, x: net.second(net.first(x).sigmoid()), [("sigmoid", "table")], "a lookup table"),
    "a number": (lambda net, x: net.second(net.first(x) / 6), [("truediv", "table")], "a lookup table"),
    "group norm": (
        lambda net, x: net.second(net.layer_norm(net.first(x))),
        [("layer_norm", "float")],
        "GroupNorm has no",
    ),
    "softmax": (
        lambda net, x: net.first(x).mean((2, 3)).softmax(1),
        [("softmax", "float")],
        "softmax has no integer form",
    ),
    "function with weights": (
        lambda net, x: F.conv2d(net.first(x), net.weights),
        [("conv2d", "function")],
        "conv2d with weights of its own",
    ),
}


@pytest.mark.parametrize("name", UNFUSED)
def test_what_is_not_fused_is_listed_with_its_reason(name: str) -> None:
    connect, wanted, why = UNFUSED[name]
    assert found(connect) == wanted
    report = lint(Net(connect), (3, 4, 4))
    assert all(why in one.problem for one in report.findings)
    assert all(one.cure for one in report.findings)
    assert why in str(report)
    assert json.loads(report.json())["findings"][0]["layer"] == wanted[0][0]
    assert report.csv().count("\n") == 1 + len(wanted)


def test_networks_for_microcontrollers_are_clean() -> None:
    for network, shape in ((resnet8(), (3, 32, 32)), (ds_cnn(), (1, 49, 10)), (mobilenet_v1(), (3, 96, 96))):
        assert not [one for one in lint(network, shape).findings if one.kind != "float"]
    assert str(lint(resnet8(), (3, 32, 32))).startswith("nothing: an int8 runtime folds every norm")


def test_a_quantised_network_is_looked_at_without_its_grids() -> None:
    for connect in (UNFUSED["pre-activation"][0], FUSED["residual"]):
        model = MixedPrecision(Net(connect), (3, 4, 4), precision=8)
        model.calibrate([torch.randn(4, 3, 4, 4)])
        assert lint(model, (3, 4, 4)).findings == lint(Net(connect), (3, 4, 4)).findings


def test_layers_of_this_library() -> None:
    """A REAF convolution ends in a convolution; a maximum of heads cannot take a norm; others say what runs them."""
    reaf, heads = ReafConv2d(4, 4, 3, 2, 1), MultiHeadDepthwise(4, 2, 3)
    layers = [reaf, nn.BatchNorm2d(4), nn.ReLU(), heads, nn.BatchNorm2d(4), nn.ReLU()]
    (norm,) = lint(nn.Sequential(nn.Conv2d(3, 4, 1), *layers), (3, 8, 8)).findings
    assert (norm.layer, norm.kind) == ("5", "norm")
    assert "MultiHeadDepthwise before it cannot take its scale" in norm.problem
    wanted = ((AdderConv2d(3, 4, 1), "adder arrays"), (PAConv2d(3, 4, 1), "pack"), (BinaryConv2d(3, 4, 1), "pack"))
    for layer, cure in wanted:
        (one,) = lint(nn.Sequential(layer), (3, 8, 8)).findings
        assert one.kind == "float"
        assert cure in one.cure


def test_layers_alike_are_one_entry() -> None:
    model = nn.Sequential(*[layer for _ in range(12) for layer in (nn.Conv2d(3, 3, 1), nn.Hardswish())])
    text = str(lint(PIT(model, (3, 4, 4)), (3, 4, 4)))
    assert text.count("lookup table") == 1
    assert "and 4 more" in text
    assert text.endswith("in all: 12 table")


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    where = ["cost", "benchmarks_mlperf_tiny.networks:resnet8", "--input", "3,32,32", "--lint"]
    assert main(where) == 0
    assert "nothing: an int8 runtime" in capsys.readouterr().out
    assert main([*where, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"findings": []}
    assert main([*where, "--target", "gap8"]) == 2
    assert "prints no costs: leave --target and --runtime out" in capsys.readouterr().err
