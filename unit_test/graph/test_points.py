"""Quantisation points: where activations are rounded, which of them share a grid, and what stays in floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt import MixedPrecision, Precision
from nasopt.graph.example import make_example
from nasopt.graph.groups import trace_model
from nasopt.graph.points import Points, find_points


class Net(nn.Module):
    """`stem`, whatever `part` does with it, and a head that reads integers."""

    def __init__(self, part: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 2, 1)
        self.part = part
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.part(self, self.stem(x)))


def points_of(seed: nn.Module, *shape: int, **settings: Any) -> Points:
    example = make_example(seed, shape or (3, 8, 8), None)
    return find_points(trace_model(seed, example, ()), **settings)


def shape_of(points: Points) -> dict[str, tuple[int, bool]]:
    return {name: (len(one.behind), one.signed) for name, one in points.classes.items()}


def conv(inputs: int = 4) -> nn.Module:
    return nn.Conv2d(inputs, 4, 3, padding=1)


X, UNSIGNED = ("x", (1, True)), (1, False)


@pytest.mark.parametrize(
    ("part", "layers", "wanted"),
    [
        (lambda m, x: x, {}, {"stem": (1, True)}),
        (lambda m, x: x.relu(), {}, {"stem": UNSIGNED}),
        (lambda m, x: F.relu6(m.norm(x)), {"norm": nn.BatchNorm2d(4)}, {"stem": UNSIGNED}),
        (lambda m, x: torch.clamp(x, -1, 1), {}, {"stem": (1, True)}),
        (lambda m, x: F.dropout(x.relu(), training=m.training), {}, {"stem": UNSIGNED}),
        # The norm has two readers: its value is rounded, the relu clips integers.
        (
            lambda m, x: (lambda y: y.relu() + m.other(y))(m.norm(x)),
            {"norm": nn.BatchNorm2d(4), "other": conv()},
            {"stem": (1, True), "other": (1, True), "add": (1, True)},
        ),
        (
            lambda m, x: (m.other(x) + x).relu(),
            {"other": conv()},
            {"stem": (1, True), "other": (1, True), "add": UNSIGNED},
        ),
        (lambda m, x: x * x.mean((2, 3), keepdim=True).sigmoid(), {}, {
            "stem": (1, True), "mean": (1, True), "sigmoid": UNSIGNED, "mul": (1, True)}),
        # Two members of one class, of which one may be negative.
        (
            lambda m, x: m.last(torch.cat([x.relu(), m.other(x)], 1)),
            {"other": conv(), "last": conv(8)},
            {"stem": (1, True), "other": (1, True), "relu": UNSIGNED, "last": (1, True)},
        ),
        (lambda m, x: F.max_pool2d(x, 2).flatten(2).unflatten(2, (4, 4)), {}, {"stem": (1, True)}),
        (lambda m, x: F.avg_pool2d(x.relu(), 2), {}, {"stem": UNSIGNED, "avg_pool2d": UNSIGNED}),
        (lambda m, x: F.hardswish(x), {}, {"stem": (1, True), "hardswish": (1, True)}),
        (lambda m, x: x * 0.5 + 1, {}, {"stem": (1, True), "mul": (1, True), "add": (1, True)}),
        # Called twice: both inputs lie on one grid.
        (lambda m, x: m.other(m.other(x).relu()), {"other": conv()}, {"stem": (2, True), "other": (1, True)}),
        (lambda m, x: m.norm(x.relu()), {"norm": nn.BatchNorm2d(4)}, {"stem": UNSIGNED, "norm": (1, True)}),
    ],
)  # fmt: skip
def test_classes(part: Any, layers: dict[str, nn.Module], wanted: dict[str, tuple[int, bool]]) -> None:
    found = shape_of(points_of(Net(part, **layers)))
    if "relu" in wanted:  # cat joins: the relu of a rounded value, and what the other layer writes
        wanted = {"stem": (2, True), "last": (1, True)}
    assert found == {"x": (1, True), **wanted}


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (lambda m, x: x.softmax(1), "softmax"),
        (lambda m, x: m.norm(x), "norm"),
        (lambda m, x: torch.cumsum(x, 2), "cumsum"),
        (lambda m, x: F.pad(x, (1, 1), value=1.0), "pad"),
    ],
)
def test_what_has_no_integer_form_stays_in_floats(part: Any, name: str) -> None:
    points = points_of(Net(part, norm=nn.GroupNorm(1, 4)))
    assert list(points.floats) == [name]
    assert "no integer form" in points.floats[name]
    # Rounded again, because the head reads integers; not before, because nobody else does.
    assert shape_of(points) == {"x": (1, True), name: (1, name != "softmax")}


def test_grids_can_be_shared_at_additions() -> None:
    def part(m: Any, x: Tensor) -> Tensor:
        return (m.other(x) + x).relu()

    assert shape_of(points_of(Net(part, other=conv()), share_at=("add",))) == {"x": (1, True), "stem": (3, True)}


def test_a_layer_of_32_bits_is_an_island() -> None:
    points = points_of(Net(lambda m, x: m.other(x), other=conv()), floats=("other",))
    assert points.floats == {"other": "32 bits were asked for"}
    assert shape_of(points) == {"x": (1, True), "other": (1, True)}


def test_a_float_precision_is_the_seed() -> None:
    seed = Net(lambda m, x: m.norm(x).relu(), norm=nn.BatchNorm2d(4))
    model = MixedPrecision(seed, (3, 8, 8), precision=Precision(weights=32, activations=32, first_last=None, inputs=32))
    x = torch.randn(2, 3, 8, 8)
    for mode in (True, False):
        assert torch.equal(model.train(mode)(x), seed.train(mode)(x))
