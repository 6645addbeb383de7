"""Exports take every input size that seed and search model take, and sizes of one tensor serve another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from same import Around
from settings import scramble
from torch import Tensor, nn

from nasopt import PIT

SIZES = [(2, 3, 8, 8), (1, 3, 16, 12), (2, 3, 4, 6)]


def split_by_sizes(m: Any, y: Tensor) -> Tensor:
    h, w = y.shape[2:]
    rows, columns = torch.split(torch.cat([y.mean(3), y.mean(2)], 2), [h, w], 2)
    return y * rows.unsqueeze(3).sigmoid() * columns.unsqueeze(2).sigmoid()


def flat_with_a_constant(m: Any, y: Tensor) -> Tensor:
    b, _, h, w = y.shape
    return y.reshape(b, 8 * h * w).view(b, 8, h, w)


def patches(m: Any, y: Tensor) -> Tensor:
    b, _, h, w = y.shape
    y = y.view(b, 8, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 32, h // 2, w // 2)
    return y.view(b, 8, 2, 2, h // 2, w // 2).permute(0, 1, 4, 2, 5, 3).reshape(b, 8, h, w)


def chunks_of_space_and_channels(m: Any, y: Tensor) -> Tensor:
    left, right = y.chunk(2, 3)
    left, right = torch.cat([left, right], 1).chunk(2, 1)
    return torch.cat(torch.cat([left, right], 3).tensor_split([2], 2), 2)


def rows_of_a_linear_layer(m: Any, y: Tensor) -> Tensor:
    b, _, h, w = y.shape
    rows = m.between(y.permute(0, 2, 3, 1).reshape(b * h * w, 8))
    return rows.view(b, h * w, 8).permute(0, 2, 1).reshape(b, -1, h, w)


def unflattened_by_a_layer(m: Any, y: Tensor) -> Tensor:
    return m.unflatten(y.flatten(1)).unflatten(2, (y.shape[2], -1))


def shape_of_another(m: Any, y: Tensor) -> Tensor:
    other = m.other(y)
    return y.flatten(1).reshape(other.shape) + other.mean()


def view_as_another(m: Any, y: Tensor) -> Tensor:
    return y.flatten(1).view_as(m.unread(y))


def size_of_another_whose_channels_go(m: Any, y: Tensor) -> Tensor:
    b, c, h, w = y.shape
    pairs = m.between(y.permute(0, 2, 3, 1)).reshape(b, h, w, 2, c // 2)
    return y + pairs.softmax(-1).flatten(3).mean((1, 2, 3)).reshape(b, 1, 1, 1)


def length(m: Any, y: Tensor) -> Tensor:
    return y + m.between(y.mean((2, 3))).view(len(y), -1, 1, 1)


PARTS = [
    length,
    size_of_another_whose_channels_go,
    split_by_sizes,
    flat_with_a_constant,
    patches,
    chunks_of_space_and_channels,
    rows_of_a_linear_layer,
    unflattened_by_a_layer,
    shape_of_another,
    view_as_another,
]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_exports_take_other_sizes(part: Any) -> None:
    members: dict[str, nn.Module] = {name: nn.Conv2d(8, 8, 1) for name in ("other", "unread")}
    seed = Around(part, between=nn.Linear(8, 8), unflatten=nn.Unflatten(1, (8, -1)), **members)
    model: Any = PIT(seed, SIZES[0][1:], unpriced="ignore")
    assert model.search_space()["searchable_channels"] >= 8
    with torch.no_grad():
        scramble(model)
        model.eval()
        network = model.arch_export()
        for size in SIZES:
            x = torch.randn(size)
            torch.testing.assert_close(network(x), model(x), rtol=1e-4, atol=1e-5)
