"""Containers and plain attributes of the seed are those of the search model's network and of exports, and survive copies."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasopt import PIT, SuperNet, restore, with_candidates

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """All three kinds of containers, one inside another, and plain attributes; one is called like a parameter of PIT."""

    def __init__(self) -> None:
        super().__init__()
        self.num_classes, self.alpha, self.names = 2, 0.5, {"cat": [0], "dog": [1]}
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 3), nn.Identity()))
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 1) for _ in range(12)])
        self.heads = nn.ModuleDict({"main": nn.Linear(4, 2)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        for block in self.blocks:
            x = block(x).relu()
        return self.heads["main"](x.mean((2, 3)))

    def predict(self, x: Tensor) -> Tensor:
        return self(x).argmax(1)


def check(network: nn.Module) -> None:
    net: Net = network  # type: ignore[assignment]
    assert [type(net.features), type(net.blocks), type(net.heads)] == [nn.Sequential, nn.ModuleList, nn.ModuleDict]
    assert any(isinstance(layer, nn.Conv2d) for layer in net.features[2].modules())
    assert len(net.blocks) == 12
    assert [net.get_submodule(f"blocks.{i}") is block for i, block in enumerate(net.blocks)] == [True] * 12
    assert (net.num_classes, net.names["dog"]) == (2, [1])
    assert net(torch.zeros(2, *SHAPE)).shape == (2, 2)
    assert Net.predict(net, torch.zeros(2, *SHAPE)).shape == (2,)


@pytest.mark.parametrize("through", ["export", "deepcopy", "twice", "pickle"])
def test_networks_have_the_containers_of_the_seed(through: str) -> None:
    model = PIT(Net(), SHAPE)
    assert model.num_classes == 2
    assert isinstance(model.alpha, nn.Parameter)
    with torch.no_grad():
        model.alpha.copy_(torch.rand_like(model.alpha))
    found = model.arch_export()
    copies = {"deepcopy": copy.deepcopy, "twice": lambda x: copy.deepcopy(copy.deepcopy(x))}
    copies |= {"pickle": lambda x: pickle.loads(pickle.dumps(x)), "export": lambda x: x}
    check(copies[through](found))
    assert isinstance(copies[through](model).net.features, nn.Sequential)


def test_a_layer_of_an_export_can_be_exchanged() -> None:
    found = PIT(Net(), SHAPE).arch_export()
    found.heads["main"] = nn.Linear(found.heads["main"].in_features, 5)
    assert found(torch.zeros(1, *SHAPE)).shape == (1, 5)


def test_the_chosen_branch_stands_in_the_containers_of_the_seed() -> None:
    found = SuperNet(with_candidates(Net(), SHAPE), SHAPE).arch_export()
    check(nn.Module.eval(found))


def test_a_model_that_is_a_sequential_is_read_like_one() -> None:
    seed = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Identity(), nn.ReLU(), nn.Conv2d(8, 4, 1))
    model = PIT(seed, (3, 8, 8))
    found = model.arch_export()
    for network in (model.net, found, copy.deepcopy(found), restore(seed, model.arch_structure())):
        layers: Any = network
        assert [type(layer) for layer in layers] == [type(layer) for layer in seed]
        assert len(layers) == 5
        assert isinstance(layers[-1], nn.Conv2d)
        assert isinstance(layers[:2], nn.Sequential)
    own: Any = found
    own[-1] = nn.Conv2d(8, 6, 1)
    assert found(torch.randn(1, 3, 8, 8)).shape[1] == 6
    with pytest.raises(IndexError):
        own[5]
