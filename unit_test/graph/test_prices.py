"""Prices of what is no layer: directly used parameters, computed weights, products; and of what nobody knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from settings import scramble
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt import PIT, PITSuperNet, with_candidates
from nasopt.cost import network_cost
from nasopt.errors import UnpricedError
from nasopt.graph.example import make_example
from nasopt.graph.groups import Analysis, analyse, trace_model


class Uses(nn.Module):
    """One parameter `w`, one bias `b`, and what is done with them."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(5))
        self.body = [body]

    def forward(self, x: Tensor) -> Tensor:
        return self.body[0](self, x)


# name -> (what is done, shape of w, shape of one sample, stored weights, MACs of one sample)
CASES: dict[str, tuple[Callable[[Any, Tensor], Tensor], tuple[int, ...], tuple[int, ...], int, int]] = {
    "matmul": (lambda s, x: x @ s.w, (4, 5), (4,), 20, 20),
    "matmul_per_token": (lambda s, x: torch.matmul(x, s.w), (4, 5), (6, 4), 20, 6 * 20),
    "from_the_left": (lambda s, x: s.w @ x, (5, 6), (6, 4), 30, 30 * 4),
    "transposed": (lambda s, x: x.mm(s.w.t()), (5, 4), (4,), 20, 20),
    "bmm": (lambda s, x: torch.bmm(x, s.w.expand(x.shape[0], -1, -1)), (4, 5), (6, 4), 20, 6 * 20),
    "einsum": (lambda s, x: torch.einsum("btc,cd->btd", x, s.w), (4, 5), (6, 4), 20, 6 * 20),
    "einsum_of_heads": (lambda s, x: torch.einsum("bc,hcd->bhd", x, s.w), (2, 4, 5), (4,), 40, 40),
    "addmm": (lambda s, x: torch.addmm(s.b, x, s.w), (4, 5), (4,), 25, 20),
    "addmm_scaled": (lambda s, x: torch.addmm(s.b * 2, x, s.w, alpha=0.5), (4, 5), (4,), 25, 20),
    "linear_of_a_product": (lambda s, x: F.linear(x, s.w * 2, s.b), (5, 4), (6, 4), 25, 6 * 20),
    "linear_of_a_sorted_weight": (lambda s, x: F.linear(x, s.w.sort(1)[0]), (5, 4), (6, 4), 20, 6 * 20),
    "conv_of_a_product": (lambda s, x: F.conv2d(x, s.w.tanh(), s.b), (5, 2, 3, 3), (2, 6, 6), 95, 16 * 90),
    "grouped_conv_of_a_sorted_weight": (
        lambda s, x: F.conv2d(x, s.w.sort(1)[0], groups=2),
        (4, 1, 3, 3),
        (2, 6, 6),
        36,
        16 * 36,
    ),
    "tensordot": (lambda s, x: torch.tensordot(x, s.w, dims=([2], [0])), (4, 5), (6, 4), 20, 6 * 20),
    "tensordot_by_number": (lambda s, x: torch.tensordot(x, s.w, 1), (4, 5), (6, 4), 20, 6 * 20),
    "inner": (lambda s, x: torch.inner(x, s.w), (5, 4), (6, 4), 20, 6 * 20),
    "bilinear": (lambda s, x: F.bilinear(x, x * 2, s.w, s.b), (5, 4, 4), (4,), 85, 80),
    "embedding": (lambda s, x: F.embedding(x.long().clamp(0, 3), s.w), (4, 5), (6,), 20, 0),
    "of_no_input": (lambda s, x: x * F.linear(torch.ones(3, 4), s.w).sum(), (5, 4), (6,), 20, 60),
    "of_sizes_alone": (
        lambda s, x: x + (torch.ones(x.shape[1], 4, device=x.device, dtype=x.dtype) @ s.w).sum(1),
        (4, 5),
        (3,),
        20,
        60,
    ),
    "of_sizes_in_parts": (
        lambda s, x: x + F.linear(torch.arange(12.0).view(x.size(-1), 4), s.w).sum(1),
        (5, 4),
        (3,),
        20,
        60,
    ),
    "of_every_sample": (lambda s, x: x + F.linear(torch.ones(len(x), 4), s.w).sum(1)[:, None], (5, 4), (3,), 20, 20),
    "losses_and_chosen_positions": (
        lambda s, x: F.mse_loss(x, x * 2) * x.index_fill(1, torch.tensor([0]), 1.0).masked_fill(x > 9, 0).diff(dim=1),
        (1,),
        (4,),
        0,
        0,
    ),
    "norm_that_stores_nothing": (lambda s, x: F.layer_norm(x @ s.w, (5,)), (4, 5), (4,), 20, 20),
    "batch_norm_that_stores_nothing": (lambda s, x: F.batch_norm(x, None, None, training=True), (1,), (4,), 0, 0),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::nasopt.errors.NoEffectWarning")
def test_size_and_macs_by_hand(name: str) -> None:
    body, shape, sample, size, macs = CASES[name]
    model = Uses(body, *shape).eval()
    assert network_cost(model, "macs", sample) == macs
    assert network_cost(model, "size", sample) == size


def analysed(model: nn.Module, shape: tuple[int, ...]) -> Analysis:
    example = make_example(model, shape, None)
    return analyse(trace_model(model, example), example)


def test_what_nobody_can_price_is_named() -> None:
    known = analysed(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), (4,))
    known.check_priced("macs")
    unknown = analysed(Uses(lambda s, x: torch.cdist(x, s.w[None]), 3, 4), (6, 4))
    with pytest.raises(UnpricedError, match=r'latency: nobody knows what cdist costs.*call.cost.*unpriced="ignore"'):
        unknown.check_priced("latency")


class HoldsASlice(nn.Module):
    """A part of the channels is held on its own, and read by nobody but with all."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x[:, 0] += 2
        x[:, :4] = x[:, :4].exp()
        return self.last(x)  # type: ignore[no-any-return]


def test_memory_of_a_part_of_the_channels_is_that_of_those_which_live() -> None:
    model = PITSuperNet(with_candidates(HoldsASlice(), (3, 4, 4)), (3, 4, 4), regularizer="memory").eval()
    for number in range(12):
        torch.manual_seed(number)
        scramble(model)
        exported = model.arch_export(verify=False)
        assert model.get_cost("memory", discrete=True) == network_cost(exported, "memory", (3, 4, 4))


class BiasOfItsOwn(nn.Module):
    """A weight that two layers share, and a bias that only one of them has."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.bias = nn.Linear(6, 4), nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(self.encoder(x)), self.encoder.weight.t(), self.bias)


def test_a_bias_behind_shared_weights_is_stored_too() -> None:
    assert network_cost(BiasOfItsOwn(), "size", (6,)) == 6 * 4 + 4 + 6


class ChannelsWithBatch(nn.Module):
    """A shuffle that puts channels and samples into one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        b, c, h, w = x.shape
        x = x.view(b * c // 2, 2, h * w).permute(1, 0, 2).reshape(2, -1, c // 2, h, w)
        return self.last(torch.cat((x[0], x[1]), 1))  # type: ignore[no-any-return]


def test_memory_of_channels_that_lie_with_the_batch() -> None:
    x = torch.randn(3, 3, 4, 4)
    model = PIT(ChannelsWithBatch(), input_example=x, regularizer="memory").eval()
    assert model.get_cost("memory", discrete=True) == network_cost(ChannelsWithBatch(), "memory", (3, 4, 4))
    torch.manual_seed(1)
    scramble(model)
    assert model.get_cost("memory", discrete=True) == network_cost(model.arch_export(), "memory", (3, 4, 4))


class KernelPerSample(nn.Module):
    """Mixtures of kernels with the weights of a sample: all samples lie along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mixture = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)
        self.kernels = nn.Parameter(torch.randn(2, 4 * 4 * 9))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        b, c, h, w = x.shape
        kernels = (self.mixture(x.mean((2, 3))).sigmoid() @ self.kernels).view(b * 4, c, 3, 3)
        return F.conv2d(x.view(1, b * c, h, w), kernels, padding=1, groups=b).view(b, 4, h, w)


def test_work_on_one_sample_where_all_lie_along_the_channels() -> None:
    wanted = 64 * (3 * 4 + 4 * 4 * 9) + 4 * 2 + 2 * 4 * 4 * 9
    for batch in (1, 2, 5):
        assert network_cost(KernelPerSample(), "macs", input_example=torch.randn(batch, 3, 8, 8)) == wanted


class WeightByLayer(nn.Module):
    """A weight that a layer makes of a parameter is one of its own in exports, without the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.latent, self.maker = nn.Parameter(torch.randn(4)), nn.Linear(4, 8 * 3)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.maker(self.latent).view(8, 3, 1, 1)
        return self.last(F.conv2d(x, weight).relu())  # type: ignore[no-any-return]


def test_layers_that_only_make_weights_are_stored_nowhere() -> None:
    model = PIT(WeightByLayer(), (3, 4, 4), regularizer="size")
    assert model.get_cost("size", discrete=True) == 8 * 3 + 8 * 2 + 2
    scramble(model)
    assert model.get_cost("size", discrete=True) == network_cost(model.arch_export(), "size", (3, 4, 4))


class SpreadParameter(nn.Module):
    """A parameter that is spread over positions, which belong to no sample."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.centres = nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        n, c = x.shape[:2]
        spread = self.centres.expand(x.shape[2] * x.shape[3], -1, -1).permute(1, 2, 0)
        return self.last(x + (spread * x.view(n, 1, c, -1)).sum(1).view_as(x))  # type: ignore[no-any-return]


def test_memory_of_a_parameter_that_is_spread() -> None:
    x = torch.randn(5, 3, 4, 4)
    model = PIT(SpreadParameter(), input_example=x, regularizer="memory").eval()
    for number in range(3):
        torch.manual_seed(number)
        scramble(model)
        exported = model.arch_export(verify=False)
        assert model.get_cost("memory", discrete=True) == network_cost(exported, "memory", input_example=x)


class Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.pairs = nn.Linear(6, 3), nn.Linear(6, 4), nn.Bilinear(3, 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.pairs(self.first(x), self.second(x))  # type: ignore[no-any-return]


def test_products_of_all_pairs() -> None:
    assert network_cost(Pairs(), "macs", (6,)) == 6 * 3 + 6 * 4 + 3 * 4 * 5
    assert network_cost(Pairs(), "size", (6,)) == sum(p.numel() for p in Pairs().parameters())
