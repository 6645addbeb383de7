"""Compiled loops round as torch's operators do, and give the same gradients; what they cannot take goes the other way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from nasopt import ste

SHARES = (0.3, 0.7)


def passes(x: Tensor, gradient: Tensor, ranges: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """What comes out, and all gradients: of one grid, or of a mixture of two."""
    x = x.clone().requires_grad_()
    steps = torch.tensor([0.031, 0.4][: len(ranges)], requires_grad=True)
    if len(ranges) == 1:
        result = ste.quantise(x, steps, *ranges[0], gradient_scale=0.25, half_up=True)
        result.backward(gradient)
        return [result.detach(), x.grad, steps.grad]  # type: ignore[list-item]
    shares = torch.tensor(SHARES, requires_grad=True)
    result = ste.quantise_mixture(x, steps, shares, ranges, (0.25, 0.5))
    result.backward(gradient)
    return [result.detach(), x.grad, steps.grad, shares.grad]  # type: ignore[list-item]


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("ranges", [((0, 255),), ((-128, 127),), ((0, 255), (0, 15)), ((-128, 127), (-8, 7))])
def test_loops_compute_what_operators_do(ranges: Any, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 5, 30, 31).to(memory_format=memory)  # of several blocks, none of them full
    x[0, 0, 0, :4] = torch.tensor([float("inf"), -float("inf"), 1e30, 0.0])
    x[0, 0, 1, :9] = torch.arange(-4, 5) * 0.4 + 0.2  # ties
    x[0, 0, 2, 0] = ranges[0][1] * torch.tensor(0.031)  # a bound is inside
    gradient = torch.randn_like(x)
    gradient[0, 0, 0] = 0.0
    found = []
    for least in (1 << 60, 1):
        monkeypatch.setattr(ste, "_LARGE", least)
        # Infinite numbers have no place in sums.
        found.append(passes(x, gradient, ranges)[:2] + passes(x.clamp(-9, 9), gradient, ranges)[2:])
    assert found[0][0].stride() == found[1][0].stride()
    for wanted, other in zip(*found):
        exact = len(ranges) == 1 and wanted.shape == x.shape
        torch.testing.assert_close(other, wanted, rtol=0.0 if exact else 1e-4, atol=0.0 if exact else 1e-3)


def test_what_is_no_number_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ste, "_LARGE", 1)
    assert bool(passes(torch.full((4,), float("nan")), torch.ones(4), ((0, 15),))[0].isnan().all())


def test_others_than_plain_tensors_take_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ste, "_LARGE", 1)
    monkeypatch.setattr(ste, "_Grids", None)
    for x in (torch.randn(4, 4).double(), torch.randn(4, 8)[:, ::2], torch.randn(4, 4, device="meta")):
        assert ste.quantise(x, torch.tensor(0.5).to(x), 0, 15, half_up=True).shape == x.shape
    assert ste.quantise(torch.randn(4, 4), torch.ones(1).double(), 0, 15, half_up=True).dtype == torch.float64
    with pytest.raises(TypeError):
        ste.quantise(torch.randn(4, 4), torch.tensor(0.5), 0, 15, half_up=True)


def test_who_records_operators_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ste, "_LARGE", 1)

    def rounded(x: Tensor) -> Tensor:
        return ste.quantise(x, torch.tensor(0.5), 0, 15, half_up=True)

    recorded = make_fx(rounded)(torch.randn(4, 4))
    x = torch.rand(4, 4) * 9
    torch.testing.assert_close(recorded(x), rounded(x))
