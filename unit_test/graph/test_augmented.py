"""`y += 1` on a tensor changes all names of it, and is plain arithmetic in the graph wherever nobody can tell."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from same import Around, assert_same
from settings import scramble
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt import PIT, PITSuperNet, with_candidates
from nasopt.cost import network_cost
from nasopt.errors import ExportError
from nasopt.export import integer_program

Part = Callable[[Any, Tensor], Any]


def residual(m: Any, x: Tensor) -> Tensor:
    y = m.dropout(m.inner(x))
    y += x
    y *= 0.5
    return torch.relu(y)


def another_name(m: Any, x: Tensor) -> Tensor:
    z = x
    x += 1
    x -= m.inner(x.clone())
    return z


def another_name_in_a_list(m: Any, x: Tensor) -> Tensor:
    kept = [x, m.inner(x.clone())]
    for y in kept:
        y /= 2
    kept[0] *= kept[1]
    return x + kept[1]


def in_a_function(m: Any, x: Tensor) -> Tensor:
    def double(y: Tensor) -> None:
        y *= 2

    double(x)
    return x


def attribute(m: Any, x: Tensor) -> Tensor:
    m.kept = x
    m.kept += m.inner(x.clone())
    del m.kept
    return x


def view_before(m: Any, x: Tensor) -> Tensor:
    y = m.inner(x)
    v = y.flatten(2)
    y += x
    return x + v.unflatten(2, (8, 8))


def through_a_view(m: Any, x: Tensor) -> Tensor:
    v = x.permute(0, 2, 3, 1)
    v -= 0.3
    return x


def through_a_slice(m: Any, x: Tensor) -> Tensor:
    v = x[:, :4]
    v += x[:, 4:]
    return x


def items(m: Any, x: Tensor) -> Tensor:
    x[:, 0] += 1
    x[:, 2:5] *= x[:, 3:6].clone()
    x[..., 1:] -= 0.5
    return x


def without_gradients(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = m.inner(x)
        z = y
        y += x
        y *= 2
    return x + z


def sizes(m: Any, x: Tensor) -> Tensor:
    side = x.shape[2]
    side //= 2
    side += 1
    scale = 1
    scale *= x.shape[0]
    x = F.adaptive_avg_pool2d(x, side) * scale
    return F.interpolate(x, (8, 8))


def buffer(m: Any, x: Tensor) -> Tensor:
    m.count += 1
    steps = m.count
    steps += 1
    return x * steps


def masks(m: Any, x: Tensor) -> Tensor:
    inside = x > -0.5
    inside &= x < 0.5
    inside |= x > 1
    return x * inside


def stepped(m: Any, x: Tensor) -> Tensor:
    z = x.detach()
    z %= 0.7
    z **= 2
    z //= 0.1
    return x + z


PLAIN = [residual, another_name, another_name_in_a_list, in_a_function, attribute, sizes, without_gradients, masks]
IN_PLACE = [view_before, through_a_view, through_a_slice, items, buffer, stepped]


def made_around(part: Part) -> nn.Module:
    return Around(part, inner=nn.Conv2d(8, 8, 1), dropout=nn.Dropout(0.0), count=torch.zeros(1))


def in_place(model: Any) -> list[str]:
    names = (getattr(node.target, "__name__", "") for node in model.net.graph.nodes)
    return [name for name in names if name[:1] == "i" and hasattr(operator, name[1:])]


@pytest.mark.parametrize("part", PLAIN)
def test_plain_arithmetic_where_nobody_can_tell(part: Part) -> None:
    assert in_place(assert_same(made_around(part), verify=True)) == []


@pytest.mark.parametrize("part", IN_PLACE)
def test_in_place_where_a_view_or_somebody_outside_can_tell(part: Part) -> None:
    assert in_place(assert_same(made_around(part), verify=True)) != []


class ChangesItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        x /= 2
        return self.layers(x)  # type: ignore[no-any-return]


def test_the_callers_tensor_is_changed_as_by_the_seed() -> None:
    seed = ChangesItsInput()
    model = PIT(seed, (3, 4, 4))
    inputs = torch.rand(2, 3, 4, 4)
    changed = [inputs.clone() for _ in range(3)]
    outputs = [one(x) for one, x in zip((seed, model, model.arch_export()), changed)]
    for output, x in zip(outputs, changed):
        torch.testing.assert_close(output, outputs[0])
        torch.testing.assert_close(x, (inputs - 0.5) / 2)


class Residual(nn.Module):
    def __init__(self, augmented: bool) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 2, 1)
        self.augmented = augmented

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.second(x)
        if self.augmented:
            y += x
        else:
            y = y + x
        return self.last(y)  # type: ignore[no-any-return]


@pytest.mark.parametrize("metric", ["size", "macs", "memory", "memory:tflm"])
def test_a_residual_costs_what_the_plain_one_does(metric: str) -> None:
    costs = [network_cost(Residual(augmented), metric, (3, 8, 8)) for augmented in (True, False)]
    assert costs[0] == costs[1]


def test_a_branch_that_passes_its_input_on() -> None:
    model = PITSuperNet(with_candidates(Residual(True), (3, 8, 8)), (3, 8, 8)).eval()
    x = torch.randn(2, 3, 8, 8)
    for number in range(4):
        torch.manual_seed(number)
        scramble(model)
        exported = model.arch_export()
        torch.testing.assert_close(exported(x), model(x), rtol=1e-4, atol=1e-5)
        assert network_cost(exported, "memory", (3, 8, 8)) == model.get_cost("memory", discrete=True)


@pytest.mark.parametrize("part", [through_a_view, through_a_slice, items])
def test_an_integer_program_of_a_written_part_is_refused(part: Part) -> None:
    model = PIT(made_around(part), (3, 8, 8), precision=8)
    model.calibrate([torch.randn(2, 3, 8, 8)])
    with pytest.raises(ExportError, match="read under another name"):
        integer_program(model.arch_export())
