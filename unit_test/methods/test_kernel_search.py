"""Receptive fields, dilations and rings: what is reachable, and that the smaller convolution is the masked one."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasopt import PIT, Budget
from nasopt.cost import network_cost


def chain(conv: nn.Module) -> nn.Sequential:
    """The convolution between two that keep all its channels in place."""
    one = nn.Conv1d if isinstance(conv, nn.Conv1d) else nn.Conv2d
    return nn.Sequential(one(2, conv.in_channels, 1), conv, one(conv.out_channels, 2, 1))  # type: ignore[arg-type]


def search_model(conv: nn.Module, shape: tuple[int, ...]) -> PIT:
    return PIT(chain(conv).double(), input_example=torch.randn(2, *shape, dtype=torch.float64))


def set_vectors(model: PIT, beta: list[float], gamma: list[float] | None = None) -> None:
    with torch.no_grad():
        model.beta.copy_(torch.tensor(beta))
        if gamma is not None:
            model.gamma.copy_(torch.tensor(gamma))


@pytest.mark.parametrize("taps", range(2, 10))
def test_every_receptive_field_and_dilation_is_reachable(taps: int) -> None:
    """All settings of beta and gamma that keep a prefix: each length 1..K at dilation 1, and each dilation 1, 2, 4, ..."""
    model = search_model(nn.Conv1d(2, 2, taps, padding=taps - 1), (2, 12))
    levels = max(math.ceil(math.log2(taps)), 1)
    assert (model.beta.numel(), model.gamma.numel()) == (taps, levels)
    found = set()
    for field, grids in itertools.product(range(1, taps + 1), range(1, levels + 1)):
        # The score of an item is the mean of what comes from it on: only the last living one needs to be large.
        beta = [2.0 * taps * (i == field - 1) for i in range(taps)]
        gamma = [2.0 * levels * (i == grids - 1) for i in range(levels)]
        set_vectors(model, beta, gamma)
        conv: Any = model.arch_export().get_submodule("1")
        dilation = 2 ** (levels - grids)
        # Of the distances 0 .. field - 1 from the newest tap the multiples of the dilation live.
        kept = len(range(0, field, dilation))
        assert conv.kernel_size == (kept,)
        assert conv.dilation == (dilation if kept > 1 else 1,)
        found.add((kept, conv.dilation[0]))
    assert {(length, 1) for length in range(1, taps + 1)} <= found
    assert {2**i for i in range(levels)} <= {dilation for _, dilation in found} | {1}


MODES = ["zeros", "reflect", "circular", "replicate"]
PADDINGS: list[Any] = [0, 1, 3, "same", "valid"]


class Parallel(nn.Module):
    """Many convolutions at once, each between two that keep all its channels in place."""

    def __init__(self, convs: list[nn.Module]) -> None:
        super().__init__()
        self.chains = nn.ModuleList([chain(conv) for conv in convs])

    def forward(self, x: Tensor) -> list[Tensor]:
        return [chain(x) for chain in self.chains]


def check_exports(convs: list[nn.Module], x: Tensor) -> None:
    model = PIT(Parallel(convs).double(), input_example=x, verify=False).eval()
    for _ in range(3):
        with torch.no_grad():
            for parameter in model.arch_parameters():
                parameter.copy_(torch.rand(parameter.shape))
        torch.testing.assert_close(model.arch_export(verify=False)(x), model(x), rtol=1e-10, atol=1e-10)


# Torch remarks that an even kernel with padding="same" copies its input.
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("taps", [2, 4, 5])
def test_temporal_export_is_the_masked_convolution(taps: int, mode: str) -> None:
    convs: list[nn.Module] = [
        nn.Conv1d(3, 3, taps, stride, padding, dilation, padding_mode=mode)
        for padding, stride, dilation in itertools.product(PADDINGS, [1, 2], [1, 2])
        if padding != "same" or stride == 1
    ]
    check_exports(convs, torch.randn(2, 2, 17, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("mode", MODES)
def test_rings_export_is_the_masked_convolution(mode: str) -> None:
    sizes: list[Any] = [((5, 3), (2, 1)), ((4, 5), 0), ((3, 6), "same"), (5, (0, 2))]
    convs: list[nn.Module] = [
        nn.Conv2d(4, 4, kernel, stride, padding, groups=groups, padding_mode=mode)
        for (kernel, padding), (stride, groups) in itertools.product(sizes, [(1, 1), (2, 1), (1, 4)])
        if padding != "same" or stride == 1
    ]
    check_exports(convs, torch.randn(2, 2, 11, 12, dtype=torch.float64))


def test_rings_go_from_the_outside() -> None:
    """5x5 -> 3x5 -> 3x3 -> 1x3 -> 1x1, each with the padding of its size."""
    model = search_model(nn.Conv2d(2, 2, 5, padding=2), (2, 8, 8))
    sizes = []
    for rows, columns in [(3, 3), (2, 3), (2, 2), (1, 2), (1, 1)]:
        set_vectors(model, [6.0 * (i == rows - 1) for i in range(3)] + [6.0 * (i == columns - 1) for i in range(3)])
        conv: Any = model.arch_export().get_submodule("1")
        assert conv.padding == tuple((k - 1) // 2 for k in conv.kernel_size)
        sizes.append(conv.kernel_size)
    assert sizes == [(5, 5), (3, 5), (3, 3), (1, 3), (1, 1)]


def test_kernels_stay_without_kernel_search() -> None:
    seed = nn.Sequential(nn.Conv1d(2, 3, 5), nn.Conv1d(3, 2, 1))
    assert [n for n, _ in PIT(seed, (2, 9), kernel_search=False).named_arch_parameters()] == ["alpha"]
    excluded = PIT(nn.Sequential(seed, nn.Conv1d(2, 4, 3), nn.Conv1d(4, 1, 1)), (2, 9), exclude_names="0.*")
    assert excluded.beta.numel() == 3


class Padded(nn.Module):
    """Convolutions that pad in all ways: themselves, by a function, with other numbers; in time, over space."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        conv: Any = nn.Conv1d if dims == 1 else nn.Conv2d
        self.first, self.second = conv(2, 6, 8, 4, padding=2), conv(6, 6, 5, padding="same", groups=6)
        self.third, self.last = conv(6, 8, 3, padding=1, padding_mode="reflect"), conv(8, 4, 5)
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        x = torch.nn.functional.pad(torch.relu(self.third(x)), [2] * 2 * self.dims)
        return self.last(x).flatten(2).mean(-1)


@pytest.mark.parametrize("dims", [1, 2])
def test_runtimes_price_what_pads_and_crops_for_cut_kernels(dims: int) -> None:
    """By TFLM's rules: what the search says is what the exported network needs, and a limit that is kept is kept there."""
    shape = (2, *(32,) * dims)
    base = PIT(Padded(dims), shape, regularizer="memory:tflm")
    operations = len(list(base.net.graph.nodes))
    costs = base.search_space()["cost"]["memory:tflm"]
    limit = int(0.7 * costs["smallest"] + 0.3 * costs["seed"])
    model = PIT(Padded(dims), shape, regularizer=Budget(memory=("tflm", limit)))
    for number in range(3):
        torch.manual_seed(number)
        for one in (base, model):
            with torch.no_grad():
                for parameter in one.arch_parameters():
                    parameter.copy_(torch.rand_like(parameter) * 1.2)
        assert base.get_cost("memory:tflm", discrete=True) == network_cost(base.arch_export(), "memory:tflm", shape)
        assert network_cost(model.settle_budget() or model.arch_export(), "memory:tflm", shape) <= limit
    assert len(list(base.net.graph.nodes)) == operations
