"""What is counted by hand or by other means than nasopt's: channels, weights, work of layers that torch's counter misses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from settings import scramble
from torch import fx, nn
from toys import TOYS, Toy

from nasopt import PIT
from nasopt.nn import ReafConv2d

# Calls that nobody prices, by toy; every other operation of every toy has a price or is free.
UNPRICED = {"parametrized": ["5"]}
# Toys with parameters that no formula here counts.
UNCOUNTED = {"parametrized", "weight_attention"}
LAYERS = (nn.modules.conv._ConvNd, nn.Linear, ReafConv2d)


def counted_size(network: fx.GraphModule) -> int:
    """Stored weights, norms folded: one bias per output where a norm follows a layer that nobody else reads.

    A norm with statistics after any other operation stores scale and shift; one without statistics what it has learned.
    """
    modules = dict(network.named_modules())
    parameters = {id(p): p.numel() for p in network.parameters()}
    biased: dict[int, int] = {}
    for node in network.graph.nodes:
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            before = modules.get(str(node.args[0].target)) if node.args[0].op == "call_module" else None
            for parameter in layer.parameters():
                parameters[id(parameter)] = 0
            is_folded = isinstance(before, LAYERS) and len(node.args[0].users) == 1
            width = layer.num_features
            if not is_folded:
                biased[id(layer)] = 2 * width
            elif before.bias is None:
                biased[id(before)] = width
    return sum(parameters.values()) + sum(biased.values())


def has_functional_norm(network: fx.GraphModule) -> bool:
    return any(getattr(node.target, "__name__", "") == "batch_norm" for node in network.graph.nodes)


@pytest.mark.parametrize("toy", [pytest.param(toy, id=name) for name, toy in TOYS.items()])
def test_channels_weights_and_bounds(toy: Toy) -> None:
    """Exactly the channels that can go are searchable; size is that of the tensors; costs lie between the bounds."""
    model: Any = PIT(toy.seed(), input_example=toy.batch(), regularizer="macs", unpriced="ignore", verify=False)
    groups = model.explain().groups
    assert sum(group.size for group in groups if group.searchable) == toy.channels
    assert all(bool(group.reason) != group.searchable for group in groups)
    space = model.search_space()
    assert space["unpriced"] == UNPRICED.get(toy.name, [])
    assert all(0 < of["smallest"] < of["now"] == of["seed"] for of in space["cost"].values())
    for kind in () if toy.is_network else ("normal", "all_zero", "last_alive"):
        scramble(model, kind)
        for metric, of in space["cost"].items():
            assert of["smallest"] <= model.get_cost(metric, discrete=True) <= of["seed"]
    scramble(model, "uniform")
    network = model.arch_export(verify=False)
    if toy.name not in UNCOUNTED and not has_functional_norm(network):
        assert model.get_cost("size", discrete=True) == counted_size(network)
    for metric in ("size", "macs" if toy.multiplies else "ops"):
        # Masks are hard: the expected cost is the exact one in train mode, too.
        cost = model.get_cost(metric)
        assert cost.item() == model.get_cost(metric, discrete=True)
        # A channel costs weights and work wherever it stands, alive or not.
        (gradient,) = torch.autograd.grad(cost, model.alpha)
        assert bool((gradient != 0).all())


class Twice(nn.Module):
    def __init__(self, calls: int) -> None:
        super().__init__()
        self.first, self.again, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.calls = calls

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for _ in range(self.calls):
            x = self.again(x).relu()
        return self.head(x)


def test_a_layer_called_twice_doubles_work_not_size() -> None:
    # first: 25 * 3 * 4 MAC; again: 25 * 9 * 4 * 4 per call; head: 25 * 4 * 2. Weights: 12 + 4, 144 + 4, 8 + 2.
    for calls in (1, 2, 3):
        model = PIT(Twice(calls), (3, 5, 5))
        assert model.get_cost("macs", discrete=True) == 25 * 12 + calls * 25 * 144 + 25 * 8
        assert model.get_cost("size", discrete=True) == 16 + 148 + 10


def test_recurrent_and_attention_by_hand() -> None:
    # Linear 4x5; LSTM: 4 gates of 6 read 5 inputs and 6 states; hidden 6x7; head 7x3. Six time steps.
    lstm = PIT(TOYS["lstm"].seed(torch.float32), (6, 4))
    assert lstm.get_cost("macs", discrete=True) == 6 * (20 + 24 * (5 + 6)) + 42 + 21
    assert lstm.get_cost("size", discrete=True) == sum(p.numel() for p in lstm.net_parameters())
    # Two directions of 3 gates of 6, over 4 inputs and 6 states; hidden 12x7; head 7x3.
    gru = PIT(TOYS["gru"].seed(torch.float32), (6, 4))
    assert gru.get_cost("macs", discrete=True) == 6 * 2 * 18 * (4 + 6) + 84 + 21
    # Embedding 4x8; projections of query, key, value and output 8x8 each; two products of 6x6 pairs over 8 channels.
    attention = PIT(TOYS["attention"].seed(torch.float32), (6, 4))
    per_step = 32 + 4 * 64 + 2 * 6 * 8 + 72 + 72
    assert attention.get_cost("macs", discrete=True) == 6 * per_step + 24
    assert attention.get_cost("size", discrete=True) == sum(p.numel() for p in attention.net_parameters())
