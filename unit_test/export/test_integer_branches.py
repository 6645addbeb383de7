"""Integer programs of networks whose branches end in all kinds of calls: sums, joins, moves, functions, nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from integers import batch, check
from torch import Tensor, nn

from nasopt import PITSuperNet, Precision, SuperNet, SuperNetModule
from nasopt.cost import network_cost
from nasopt.export import integer_program
from nasopt.export.integer.c_program import plan

SHAPE = (3, 8, 8)


class Joined(nn.Module):
    """What it computes beside its input, perhaps clipped; or their channels by turns."""

    def __init__(self, end: Any) -> None:
        super().__init__()
        self.conv, self.end = nn.Conv2d(4, 4, 3, padding=1), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(torch.cat([x, torch.relu(self.conv(x))], 1))  # type: ignore[no-any-return]


def ghost() -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 4, 1), Joined(nn.Identity()))


ENDS = {
    "sum": lambda: nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)),
    "join": ghost,
    "clipped_join": lambda: nn.Sequential(nn.Conv2d(8, 4, 1), Joined(nn.ReLU())),
    "turns": lambda: nn.Sequential(nn.Conv2d(8, 4, 1), Joined(nn.ChannelShuffle(2))),
    "pool": lambda: nn.Sequential(nn.Conv2d(8, 8, 1), nn.MaxPool2d(3, 1, 1)),
    "function": lambda: nn.Sequential(nn.Conv2d(8, 8, 1), nn.Hardswish()),
    "nothing": nn.Identity,
}


@pytest.mark.parametrize("end", ENDS)
def test_branches_may_end_in_anything(end: str) -> None:
    torch.manual_seed(0)
    (x,) = batch(SHAPE)
    choices = [SuperNetModule([ENDS[end](), ENDS[end]()]) for _ in range(2)]
    seed = nn.Sequential(nn.Conv2d(3, 8, 3), *choices, nn.Flatten(), nn.Linear(8 * 36, 3))
    method: Any = PITSuperNet if end in ("join", "turns") else SuperNet
    model = method(seed, SHAPE, precision=Precision((2, 8), (4, 8)))
    model.calibrate([x])
    with torch.no_grad():
        for parameter in model.arch_parameters():
            parameter.copy_(torch.rand_like(parameter) + 0.1)
    network = model.arch_export()
    program = integer_program(network)
    check(network, (x,), program)
    assert plan(program).size == network_cost(network, "memory:c", SHAPE)
    assert model.get_cost("memory:c", discrete=True) == network_cost(network, "memory:c", SHAPE)
