"""Branches that share parameters: stored once, exported exactly, still shared after copying."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from settings import largest_difference
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt import PITSuperNet, SuperNet, SuperNetModule


class Slice(nn.Module):
    """The centre of a weight that another branch uses whole."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[:, :, 1:4, 1:4], self.bias, padding=1)


class Tied(nn.Module):
    """A 5x5 convolution (`a`), the same one with an activation, and one of its own (`b`)."""

    def __init__(self, sliced: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        shared = nn.Conv2d(4, 6, 5, padding=2)
        second = Slice(shared) if sliced else nn.Sequential(shared, nn.Sigmoid())
        self.choice = SuperNetModule([shared, second, nn.Conv2d(4, 6, 3, padding=1)], shared=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.choice(self.stem(x)).sigmoid().mean((2, 3)))


STEM, SHARED, OWN, HEAD = 3 * 4 + 4, 4 * 6 * 25 + 6, 4 * 6 * 9 + 6, 6 * 3 + 3
POSITIONS = 8 * 8


def decided(model: Any, branch: int) -> None:
    with torch.no_grad():
        model.choice_logits.copy_(torch.nn.functional.one_hot(torch.tensor(branch), 3) * 5.0)


@pytest.mark.parametrize("sliced", [False, True], ids=["layer_in_two_branches", "part_of_a_weight"])
def test_what_is_shared_is_stored_once(sliced: bool) -> None:
    torch.manual_seed(0)
    model = SuperNet(Tied(sliced).double(), input_shape=(3, 8, 8))
    second = 4 * 6 * 9 if sliced else 4 * 6 * 25
    work = [4 * 6 * 25, second, 4 * 6 * 9]
    with torch.no_grad():
        model.choice_logits.copy_(torch.tensor([0.3, -0.2, 0.5]))
        p = model.choice_logits.softmax(0)
    # The weight is stored unless the third branch runs, its part as such in an export; work is that of the branch that runs.
    stored = 4 * 6 * 9 + 6 if sliced else SHARED
    model.train()(torch.randn(2, 3, 8, 8, dtype=torch.float64))
    assert model.get_size().item() == pytest.approx(
        STEM + float(p[0]) * SHARED + float(p[1]) * stored + float(p[2]) * OWN + HEAD
    )
    macs = 3 * 4 * POSITIONS + sum(float(q) * w for q, w in zip(p, work)) * POSITIONS + 6 * 3
    assert model.get_macs().item() == pytest.approx(macs)
    for branch, size in enumerate([SHARED, stored, OWN]):
        decided(model, branch)
        assert model.get_cost("size", discrete=True) == STEM + size + HEAD
        assert model.get_cost("macs", discrete=True) == (3 * 4 + work[branch]) * POSITIONS + 6 * 3


@pytest.mark.parametrize("sliced", [False, True], ids=["layer_in_two_branches", "part_of_a_weight"])
@pytest.mark.parametrize("kind", ["super", "shared", "independent"])
def test_exports_are_exact_and_copies_still_share(kind: str, sliced: bool) -> None:
    torch.manual_seed(0)
    seed, x = Tied(sliced).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    wrap = SuperNet if kind == "super" else PITSuperNet
    model = wrap(seed, (3, 8, 8), **({} if kind == "super" else {"branch_masks": kind}))
    for branch in range(3):
        decided(model, branch)
        for name, parameter in model.named_arch_parameters():
            if name != "choice_logits":
                nn.init.uniform_(parameter)
        network = model.arch_export(verify=False)
        assert largest_difference(model.eval()(x), network.eval()(x)) < 1e-9
        assert sum(p.numel() for p in network.parameters()) == model.get_cost("size", discrete=True)
    twin = copy.deepcopy(model)
    assert len(list(twin.net_parameters())) == len(list(seed.parameters()))


def test_training_moves_one_tensor() -> None:
    torch.manual_seed(0)
    model = SuperNet(Tied(), (3, 8, 8)).train()
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    torch.optim.SGD(model.net_parameters(), lr=0.1).step()
    state = model.state_dict()
    assert torch.equal(state["net.choice.branches.0.weight"], state["net.choice.branches.1.0.weight"])
