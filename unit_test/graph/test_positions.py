"""Functions whose result depends on positions: the same network, and no work that a size or a MAC would count."""

from __future__ import annotations

import pytest
import torch
from same import Around, Part, assert_same
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.cost import network_cost


def outer(m: nn.Module, x: Tensor) -> Tensor:
    return x * torch.outer(x[0, 0, 0], x[0, 0, 1]).sigmoid()


PARTS: dict[str, Part] = {
    "triangle of space": lambda m, x: x.tril() + x.triu(1),
    "triangle of channels": lambda m, x: x.transpose(1, 2).tril().transpose(1, 2),
    "triangle in place": lambda m, x: (x * 1).triu_(),
    "indices": lambda m, x: x + x[:, :, torch.triu_indices(8, 8, 1)[0], 0].mean(),
    "classes": lambda m, x: x + F.one_hot(x.argmax(1), 8).permute(0, 3, 1, 2).to(x.dtype),
    "outer product": outer,
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.filterwarnings("ignore::nasopt.errors.NoEffectWarning")
def test_same_network_and_no_more_work(name: str) -> None:
    assert_same(Around(PARTS[name]))
    assert network_cost(Around(PARTS[name]), "macs", (3, 8, 8)) == 64 * 9 * 8 * (3 + 4)


def test_a_sampling_grid_is_a_product_per_position() -> None:
    seed = Around(
        lambda m, x: F.grid_sample(x, F.affine_grid(m.shift.expand(len(x), 2, 3), x.shape, False), align_corners=False)
    )  # type: ignore
    seed.shift = nn.Parameter(torch.eye(3)[:2])
    assert network_cost(seed, "macs", (3, 8, 8)) == 64 * 9 * 8 * (3 + 4) + 64 * 3 * 2
