"""Fractal blocks: recursion, number of layers, longest path, live tensors; as choices of a search."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmarks.document_networks import UA_RESNET_ROWS, binary_fractal
from nasopt import SuperNet, SuperNetModule
from nasopt.cost import network_cost
from nasopt.errors import ConfigError
from nasopt.nn import BinaryActivation, BinaryConv2d, dense_fractal_block, fractal_block


def real(inputs: int = 4, outputs: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))


def binary() -> nn.Module:
    return nn.Sequential(BinaryActivation(), BinaryConv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))


class AddOne(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_layers_and_recursion(columns: int) -> None:
    block = fractal_block(columns, real)
    assert sum(isinstance(m, nn.Conv2d) for m in block.modules()) == 2**columns - 1
    # F_1(x) = x + 1; F_{c+1} = (F_c(F_c(x)) + F_1(x)) / 2, which adds a_{c+1} = (2 a_c + 1) / 2: 1, 3/2, 2, 5/2.
    added = fractal_block(columns, AddOne)(torch.zeros(1))
    assert added.tolist() == [(columns + 1) / 2]


def test_longest_path() -> None:
    # A layer that doubles: F_1 triples, F_2 = (9 + 3) / 2 = 6, F_3 = (36 + 3) / 2: powers count the layers of a path.
    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    for columns, value in ((1, 3), (2, 6), (3, 19.5)):
        assert fractal_block(columns, Double)(torch.ones(1)).tolist() == [value]


def test_dense_form_by_hand() -> None:
    torch.manual_seed(0)
    made: list[nn.Module] = []

    def keep(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        def one() -> nn.Module:
            made.append(make())
            return made[-1]

        return one

    block = dense_fractal_block(2, keep(lambda: real(4, 3)), keep(real)).eval()
    x = torch.randn(2, 4, 5, 5)
    inner, long, short = made[0], made[1], made[2]
    wanted = torch.cat([(long(inner(x) + x) + short(x)) / 2, x], 1)
    torch.testing.assert_close(block(x), wanted)
    assert dense_fractal_block(1, lambda: real(4, 3), real)(x).shape == (2, 7, 5, 5)
    assert len([m for m in dense_fractal_block(3, lambda: real(4, 3), real).modules() if isinstance(m, nn.Conv2d)]) == 7


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_live_tensors(columns: int) -> None:
    # Input and output of a layer, the shortcut around it, and one more per column: 3, 4, 5, 6 tensors.
    size = 3 * 4 * 4
    assert network_cost(binary_fractal(columns, 3), "memory", (3, 4, 4)) == (columns + 2) * size
    # Real layers read the shortcut itself: one less.
    block = fractal_block(columns, lambda: nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)))
    assert network_cost(block, "memory", (3, 4, 4)) == (columns + 1) * size


def test_memory_rows_of_the_document() -> None:
    distinct = {round(memory, 2) for _, _, _, memory in UA_RESNET_ROWS.values()}
    assert len(UA_RESNET_ROWS) == 15
    assert distinct == {154.14, 170.20, 164.58, 149.32, 140.49, 50.33, 52.43, 47.19, 40.89, 41.94, 34.60}
    live = {columns: network_cost(binary_fractal(columns, 2), "memory", (2, 2, 2)) / 8 for columns in (1, 2, 3, 4)}
    for columns, width, size, memory in UA_RESNET_ROWS.values():
        assert live[columns] * 64 * width * size**2 * 4 / 1e6 == pytest.approx(memory, abs=0.005)


@pytest.mark.parametrize("make", [real, binary])
def test_columns_as_choices(make: Callable[[], nn.Module]) -> None:
    choice = SuperNetModule([fractal_block(columns, make) for columns in (1, 2, 3)])
    seed = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), choice, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model = SuperNet(seed, (3, 4, 4), regularizer="macs")
    x = torch.randn(2, 3, 4, 4)
    layer = 16 * 4 * 4 * 9
    rest = 16 * 3 * 4 * 9 + 8
    # Equal odds: 1, 3 and 7 layers.
    assert float(model.get_cost("macs").detach()) == pytest.approx(rest + layer * (1 + 3 + 7) / 3)
    for index, layers in enumerate((1, 3, 7)):
        with torch.no_grad():
            for parameter in model.arch_parameters():
                parameter.zero_()[..., index] = 9
        found = model.arch_export()
        assert network_cost(found, "macs", (3, 4, 4)) == rest + layers * layer
        torch.testing.assert_close(found.eval()(x), model.eval()(x))


@pytest.mark.parametrize("columns", [0, 9, True, 1.5])
def test_bad_columns(columns: int) -> None:
    with pytest.raises(ConfigError, match=r"1 to 8 columns|columns must be an int"):
        fractal_block(columns, real)
    with pytest.raises(ConfigError, match=r"1 to 8 columns|columns must be an int"):
        dense_fractal_block(columns, real, real)
