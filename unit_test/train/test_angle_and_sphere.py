"""Angle penalty, energy on the sphere, and optimizers that stay on it."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import nn

from nasopt.errors import ConfigError
from nasopt.ste import signs
from nasopt.train import AngleRegularizer, SphereConstrained, hyperspherical_energy
from nasopt.train.angle import angle_loss, groups_of


def test_derivative_by_hand_is_orthogonal() -> None:
    v, q = torch.randn(5, 9, dtype=torch.float64, requires_grad=True), torch.randn(5, 9, dtype=torch.float64)
    angle_loss(v, q).sum().backward()
    w = v.detach()
    lengths = w.norm(dim=1, keepdim=True)
    cosine = (w * q).sum(1, keepdim=True) / (lengths * q.norm(dim=1, keepdim=True))
    torch.testing.assert_close(v.grad, -(q / (lengths * q.norm(dim=1, keepdim=True)) - cosine * w / lengths**2))
    assert v.grad is not None
    assert float((v.grad * w).sum(1).abs().max()) < 1e-12


def test_relative_error_after_the_best_scale() -> None:
    v, q = torch.randn(4, 25, dtype=torch.float64), torch.randn(4, 25, dtype=torch.float64)
    scale = (v * q).sum(1, keepdim=True) / (q * q).sum(1, keepdim=True)
    error = (v - scale * q).square().sum(1) / v.square().sum(1)
    torch.testing.assert_close(1 - (1 - angle_loss(v, q)) ** 2, error)


def test_range_for_signs() -> None:
    # Worst for one large element: cos = 1 / sqrt(n). Gaussian weights: cos is about sqrt(2 / pi).
    v = torch.zeros(1, 16)
    v[0, 3] = 1
    assert float(angle_loss(v, signs(v))) == pytest.approx(1 - 1 / 4)
    v = torch.randn(64, 4096)
    assert float(angle_loss(v, signs(v)).mean()) == pytest.approx(1 - math.sqrt(2 / math.pi), abs=0.005)
    assert float(angle_loss(signs(v), signs(v)).abs().max()) < 1e-5


def test_groups() -> None:
    weight = torch.randn(4, 3, 5, 5)
    assert groups_of(weight, "layer").shape == (1, 300)
    assert groups_of(weight, "channel").shape == (4, 75)
    assert groups_of(weight, "kernel").shape == (12, 25)
    assert groups_of(weight[..., :1, :1], "kernel").shape == (4, 3)
    # A group of one element has no direction: it costs nothing and pulls nothing.
    v = torch.randn(4, 1, requires_grad=True)
    angle_loss(v, signs(v)).sum().backward()
    assert v.grad is not None
    assert torch.equal(v.grad, torch.zeros(4, 1))
    assert torch.equal(angle_loss(torch.zeros(2, 3), torch.ones(2, 3)), torch.zeros(2))


def test_regularizer_turns_weights_to_their_signs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.Flatten(), nn.Linear(5, 2))
    angle = AngleRegularizer(model, signs, "kernel", beta0=2.0, growth=1.5)
    start = float(angle.value().detach())
    # 12 kernels, 5 channels of the 1x1 layer, 2 of the linear one, all weighed alike
    assert [len(angle.angles(name)) for name in angle.layers] == [12, 5, 2]
    assert float(angle().detach()) == pytest.approx(2 * start)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(60):
        optimizer.zero_grad()
        angle().backward()
        optimizer.step()
    assert float(angle.value().detach()) < 0.3 * start
    angle.grow()
    assert angle.beta == 3
    one = AngleRegularizer(model, {"2": signs})
    assert list(one.layers) == ["2"]


def test_energy() -> None:
    # Orthogonal directions: angles pi / 2. Opposite ones in the half-space form are as close as can be.
    assert float(hyperspherical_energy(torch.eye(3))) == pytest.approx(2 / math.pi)
    crowded = torch.eye(3) + 5
    assert float(hyperspherical_energy(crowded)) > float(hyperspherical_energy(torch.eye(3)))
    opposite = torch.tensor([[1.0, 0], [-1, 0.01]], dtype=torch.float64)
    assert float(hyperspherical_energy(opposite, half_space=True)) > 10 * float(hyperspherical_energy(opposite))
    same = torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
    hyperspherical_energy(same).backward()
    assert same.grad is not None
    assert bool(torch.isfinite(same.grad).all())


@pytest.mark.parametrize("retraction", ["normalise", "geodesic"])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_unit_length_after_every_step(make: Any, retraction: Literal["normalise", "geodesic"]) -> None:
    layer = nn.Conv2d(3, 4, 3).double()
    assert layer.bias is not None
    optimizer = SphereConstrained(make(layer.parameters(), lr=0.05), [layer.weight], retraction=retraction)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    bias = layer.bias.detach().clone()
    for _ in range(4):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()
        grad = layer.weight.grad
        assert grad is not None
        torch.testing.assert_close(layer.weight.flatten(1).norm(dim=1), torch.ones(4, dtype=torch.float64))
    assert not torch.equal(layer.bias, bias)


@pytest.mark.parametrize(("retraction", "turn"), [("normalise", math.atan), ("geodesic", lambda d: d)])
@pytest.mark.parametrize("step", [0.0, 0.3, 1.2])
def test_length_of_a_step(retraction: Literal["normalise", "geodesic"], turn: Any, step: float) -> None:
    w = nn.Parameter(torch.tensor([[1.0, 0, 0], [0, 2, 0]], dtype=torch.float64))
    optimizer = SphereConstrained(torch.optim.SGD([w], lr=1.0), [w], retraction=retraction)
    before = w.detach().clone()
    # Only the tangential part of the gradient counts.
    w.grad = torch.tensor([[7.0, step, 0], [step, -3, 0]], dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(w.grad, torch.tensor([[0.0, step, 0], [step, 0, 0]], dtype=torch.float64))
    moved = (w.detach() * before).sum(1).clamp(-1, 1).arccos()
    torch.testing.assert_close(moved, torch.full((2,), turn(step), dtype=torch.float64), atol=1e-7, rtol=0)


def test_closures_and_other_groups() -> None:
    w = nn.Parameter(torch.randn(2, 3, 4))
    optimizer = SphereConstrained(torch.optim.SGD([w], lr=0.1), [w], dim=(2,))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (w * torch.arange(4)).sum()
        loss.backward()
        return loss

    first, second = optimizer.step(closure), optimizer.step(closure)
    assert float(second.detach()) < float(first.detach())
    torch.testing.assert_close(w.norm(dim=2), torch.ones(2, 3))
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_bad_input() -> None:
    model = nn.Sequential(nn.ReLU())
    with pytest.raises(ConfigError, match="no convolution and no linear layer"):
        AngleRegularizer(model, signs)
    layer = nn.Linear(3, 2)
    with pytest.raises(ConfigError, match="'channel' or 'kernel' or 'layer', got"):
        AngleRegularizer(layer, signs, "row")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be positive"):
        AngleRegularizer(layer, signs, beta0=0)
    with pytest.raises(ConfigError, match="is called head"):
        AngleRegularizer(layer, {"head": signs})
    with pytest.raises(ConfigError, match=r"copy of '' is \(2,\), its weight \(2, 3\)"):
        AngleRegularizer(layer, lambda w: w[:, 0])()
    with pytest.raises(ConfigError, match="at least two filters"):
        hyperspherical_energy(torch.ones(1, 3))
    sgd = torch.optim.SGD([layer.weight], lr=0.1)
    with pytest.raises(ConfigError, match="'normalise' or 'geodesic'"):
        SphereConstrained(sgd, [layer.weight], retraction="exact")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="does not hold parameter 0"):
        SphereConstrained(sgd, [layer.bias])
    with pytest.raises(ConfigError, match="no parameter"):
        SphereConstrained(sgd, [])
    with torch.no_grad():
        layer.weight.zero_()
    with pytest.raises(ConfigError, match="a group of zeros"):
        SphereConstrained(sgd, [layer.weight])
